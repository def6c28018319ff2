"""``rayloop node``: a node of a cluster of several machines, under a supervisor that restarts it when it ends.

Ray's launcher starts nodes and does not watch them. A raylet that was cut off for half a minute ends itself when it can
reach the head again, and a head or a node whose raylet was killed stays down. The supervisor is a process of its own,
which stays after the login that started it, and starts Ray again with the same variables and arguments.

With ``RAYLOOP_DOOR=1`` the supervisor also keeps a door, which neither the raylet nor Ray's restart touches.

A head stores GCS's state on its disk: with it, nodes, actors and Serve's applications are there again when the head is.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cluster import local_cluster
from cluster.errors import ClusterUnavailable
from cluster.node import mlflow_server
from cluster.node.environment import NODE_DOOR_VARIABLE, node_environment
from cluster.node.ports import agent_ports
from cluster.node.session import LAYOUT, end_processes, open_session
from cluster.settings import Settings
from cluster.values import Stored

START_S = 180.0
"""Seconds within which a node must start. ``ray start`` itself waits forever for a head that is not there."""
RESTART_S = 2.0
STOPPED_S = 10.0
"""How long a raylet that ended without an error stays down: ``ray stop`` ends raylets first, then the supervisor."""
_STARTED = "Ray runtime started."
_POLL_S = 0.5
_DOOR_LOG_BYTES = 1 << 20
"""Size beyond which the door's log is overwritten when the door starts."""


class _NodeCommand(Stored, stored_as="command of a node"):
    """How a node was started last."""

    command: tuple[str, ...]


def start_node(settings: Settings, command: Sequence[str]) -> None:
    """Start the supervisor of a node in the background, and wait until the node is up.

    Args:
        settings: Home and stores of the node.
        command: ``ray start`` with its options; empty: as this machine's node was started last, unless it runs.

    Raises:
        ClusterUnavailable: The command does not start a node, no node was started here, or the node does not start in
            time.
    """
    again, command = not command, list(command) or _last_command(settings)
    if command[:2] != ["ray", "start"]:
        raise ClusterUnavailable("cluster.not_a_node_command", command=" ".join(command))
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _starter_lock(settings).open("a") as lock:
        # When a machine boots, its service manager and the launcher's autoscaler may both start its node.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (again and _runs(settings)):
            _start(settings, command)


def _start(settings: Settings, command: list[str]) -> None:
    local_cluster.stop(settings)
    _keep_command(settings, command)
    ready, log = settings.home / "node.ready", settings.home / "node.log"
    ready.unlink(missing_ok=True)
    supervise = [sys.executable, "-m", "rayloop", "node", "--supervise", "--", *command]
    environment = node_variables(settings, command)
    with log.open("w") as out:
        supervisor = subprocess.Popen(
            supervise, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment, cwd=settings.home,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while not ready.exists():
        if supervisor.poll() is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                supervisor.kill()
            local_cluster.stop(settings)
            reason = f"no node within {START_S:.0f} s" if supervisor.returncode is None else "its supervisor ended"
            raise ClusterUnavailable("cluster.not_started", reason=reason, log=str(log))
        time.sleep(_POLL_S)


def supervise_node(settings: Settings, command: Sequence[str]) -> None:
    """Keep a node running until this process is ended. Its environment is the node's."""
    # A name that `ray stop` looks for, so that `ray down` ends the supervisor, too.
    Path("/proc/self/comm").write_text("ray::node")
    with _supervisor_lock(settings).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if settings.door:
            threading.Thread(target=_keep_door, args=(settings,), name="door", daemon=True).start()
        while True:
            _run_node(settings, command)
            end_processes(settings, but_door=True)
            time.sleep(RESTART_S)


def _starter_lock(settings: Settings) -> Path:
    return settings.home / "starter.lock"


def _supervisor_lock(settings: Settings) -> Path:
    return settings.home / "supervisor.lock"


def _runs(settings: Settings) -> bool:
    """Whether a supervisor keeps a node here that has been up."""
    with _supervisor_lock(settings).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return (settings.home / "node.ready").exists()
    return False


def _keep_door(settings: Settings) -> None:
    """Keep one process more than the door needs: it waits for the lock of the door's supervisors, and is restarted."""
    environment, log = os.environ | {NODE_DOOR_VARIABLE: "1"}, settings.home / "door.log"
    while True:
        try:
            with log.open("a" if log.exists() and log.stat().st_size < _DOOR_LOG_BYTES else "w") as out:
                subprocess.run(
                    [sys.executable, "-m", "cluster.door"], stdin=subprocess.DEVNULL, stdout=out,
                    stderr=subprocess.STDOUT, start_new_session=True, env=environment, check=False,
                )  # fmt: skip
        except OSError as error:
            # Such as a disk that is full: the next attempt may succeed.
            print(f"the door does not start: {error}", flush=True)
        time.sleep(RESTART_S)


def _command_file(settings: Settings) -> Path:
    return settings.home / "node.json"


def _keep_command(settings: Settings, command: Sequence[str]) -> None:
    # In one step: a machine that loses power must find it when it boots.
    new = settings.home / "node.json.new"
    new.write_text(_NodeCommand(command=tuple(command)).model_dump_json())
    new.replace(_command_file(settings))


def _last_command(settings: Settings) -> list[str]:
    try:
        return list(_NodeCommand.model_validate_json(_command_file(settings).read_text()).command)
    except FileNotFoundError as error:
        raise ClusterUnavailable("cluster.never_started") from error


def node_variables(settings: Settings, command: Sequence[str]) -> dict[str, str]:
    """Variables of the node's processes, in a session of their own."""
    from ray.util import get_node_ip_address

    head = "--head" in command
    address = get_node_ip_address() if head else _head_address(command)
    # The dashboard is the head's; actors that call it run on any node.
    dashboard = {"RAYLOOP_ADDRESS": f"http://{address}:{settings.dashboard_port}"}
    session = open_session(settings, f"{address}:{settings.gcs_port}" if head else "")
    # Without GCS a raylet ends itself after 60 s by default, and its replicas with it: it must outlast a head that is
    # repaired.
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
    return patience | node_environment(settings) | dashboard | session | (_gcs_store(settings) if head else {})


def _head_address(command: Sequence[str]) -> str:
    """The host of ``--address``, which is one word or two."""
    words = " ".join(command).replace("--address=", "--address ").split()
    if "--address" not in words[:-1]:
        raise ClusterUnavailable("cluster.not_a_node_command", command=" ".join(command))
    return words[words.index("--address") + 1].rpartition(":")[0]


def _gcs_store(settings: Settings) -> dict[str, str]:
    """Variables with which GCS stores its state, if Redis does not. What another release stored is removed."""
    if "RAY_REDIS_ADDRESS" in os.environ:
        return {}
    # Actors are pickled, which another version of Python does not read.
    python = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    release = f"ray-{importlib.metadata.version('ray')}-{python}-layout-{LAYOUT}"
    stores = settings.home / "gcs"
    for other in stores.glob("*/"):
        if other.name != release:
            shutil.rmtree(other)
    (stores / release).mkdir(parents=True, exist_ok=True)
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(stores / release)}


def _run_node(settings: Settings, command: Sequence[str]) -> None:
    """Start Ray, on a head MLflow's pages too, and return when Ray has ended."""
    head, environment = "--head" in command, dict(os.environ)
    program = str(Path(sys.executable).with_name("ray"))
    output = settings.home / "ray-start.log"
    with output.open("w") as out:
        ray = subprocess.Popen(
            [program, *command[1:], *agent_ports(command), "--block"], stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while _STARTED not in output.read_text(errors="replace"):
        if ray.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)
    # Not before: its imports would slow down Ray's, for which Serve's controller waits.
    pages = mlflow_server.start_server(settings, environment, login=True) if head else None
    ready = settings.home / "node.ready"
    while _has_raylet(ray):
        if not ready.exists() and (pages is None or mlflow_server.answers(settings)):
            ready.touch()
        if pages is not None and pages.poll() is not None:
            time.sleep(RESTART_S)
            pages = mlflow_server.start_server(settings, environment, login=True)
        time.sleep(_POLL_S)
    if ray.poll() is None:
        time.sleep(STOPPED_S)


def _has_raylet(ray: subprocess.Popen[bytes]) -> bool:
    """Whether ``ray start`` still has its raylet; it does not notice one that ended without an error."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(ray.pid).children()
        return ray.poll() is None and any(_is_raylet(child) for child in children)
    return False


def _is_raylet(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    return False
