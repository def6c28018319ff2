"""The processes of this home's cluster, and the file that tells which they are.

Each process of a cluster inherits the variable ``RAYLOOP_SESSION`` from ``ray start``. By it, ``end_processes`` finds
these processes and their children, HAProxy and MLflow's server included, and no others: ``ray stop`` ends every Ray
process of the machine and leaves HAProxy behind.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.errors import ClusterUnavailable
from cluster.node.environment import NODE_DOOR_VARIABLE
from cluster.node.ports import listens
from cluster.settings import Settings
from cluster.values import Stored

SESSION_VARIABLE = "RAYLOOP_SESSION"
LAYOUT = 2
"""Incremented by a release that moves modules of actors or Serve applications: running clusters name their paths."""
_STOP_SECONDS = 5


class _Session(Stored, stored_as="cluster session"):
    """The content of ``cluster.json``."""

    session: str
    """Value of ``RAYLOOP_SESSION`` in the environment of the cluster's processes."""
    layout: int = 1
    """``LAYOUT`` of the release that started the cluster; the first release did not write it."""
    gcs_address: str = ""
    """``host:port`` through which drivers join a cluster of several machines; empty: the loopback address."""


def open_session(settings: Settings, gcs_address: str = "") -> dict[str, str]:
    """Begin a session of this home's cluster. Returns the variable that its processes must inherit."""
    session = uuid.uuid4().hex
    stored = _Session(session=session, layout=LAYOUT, gcs_address=gcs_address)
    session_file(settings).write_text(stored.model_dump_json())
    return {SESSION_VARIABLE: session}


def gcs_address(settings: Settings) -> str:
    """Return the address, ``host:port``, through which drivers on this machine join this home's cluster."""
    stored = _session(settings)
    return (stored.gcs_address if stored else "") or f"127.0.0.1:{settings.gcs_port}"


def is_running(settings: Settings) -> bool:
    """Return whether this home's cluster runs and answers."""
    return bool(processes(settings)) and listens(settings.dashboard_port) and listens(settings.gcs_port)


def require_current_layout(settings: Settings) -> None:
    """Check that this home's cluster, when there is one, was started by a release with the same module paths.

    Raises:
        ClusterUnavailable: An earlier or a later release started it.
    """
    stored = _session(settings)
    if stored is not None and stored.layout != LAYOUT and is_running(settings):
        release = "an earlier" if stored.layout < LAYOUT else "a later"
        raise ClusterUnavailable("cluster.other_release", release=release, layout=stored.layout)


def end_processes(settings: Settings, but_door: bool = False) -> int:
    """End every process of this home's session but the calling one, and with ``but_door`` those of a node's door.

    Returns the number, and raises, as ``stop``.
    """
    started = processes(settings, but_door)
    alive = _end(started, signal.SIGTERM)
    # Ray's workers may have started more processes in the meantime.
    if survivors := _end({*alive, *processes(settings, but_door)}, signal.SIGKILL):
        raise ClusterUnavailable("cluster.not_stopped", pids=", ".join(str(p.pid) for p in survivors))
    return len(started)


def _end(running: Collection[psutil.Process], number: signal.Signals) -> list[psutil.Process]:
    """Send processes a signal; returns those that are still alive after a few seconds."""
    for process in running:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return psutil.wait_procs(running, timeout=_STOP_SECONDS)[1]


def processes(settings: Settings, but_door: bool = False) -> list[psutil.Process]:
    """Return the running processes that this home's cluster started, with ``but_door`` without a node's door."""
    if (stored := _session(settings)) is None:
        return []
    running = list(psutil.process_iter(["ppid"]))
    own_pids = {p.pid for p in running if _variable(p, SESSION_VARIABLE) == stored.session}
    # Ray's agents write their titles over their environment, including the variable; their parents still have it.
    while children := {p.pid for p in running if p.info["ppid"] in own_pids} - own_pids:
        own_pids |= children
    own = [p for p in running if p.pid in own_pids and p.pid != os.getpid()]
    return [p for p in own if not (but_door and _variable(p, NODE_DOOR_VARIABLE))]


def _variable(process: psutil.Process, name: str) -> str:
    """A variable of a process's environment; empty where it has none, or cannot be read."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return str(process.environ().get(name, ""))
    return ""


def session_file(settings: Settings) -> Path:
    """Path of the file; a home without one has no cluster."""
    return settings.home / "cluster.json"


def _session(settings: Settings) -> _Session | None:
    path = session_file(settings)
    return _Session.from_stored(path.read_bytes()) if path.exists() else None
