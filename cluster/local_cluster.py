"""The Ray cluster of this machine: start it, and stop every process that it started.

Each process of a cluster inherits the variable ``RAYLOOP_SESSION`` from ``ray start``. By it, ``stop`` finds these
processes and their children, HAProxy and MLflow's server included, and no others: ``ray stop`` ends every Ray process
of the machine and leaves HAProxy behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path

import psutil

from cluster.errors import ClusterUnavailable, OutOfMemory, PortInUse, RayloopError
from cluster.node.environment import NODE_DOOR_VARIABLE, local_environment
from cluster.node.token import read_token, token_file
from cluster.permissions import PRIVATE_UMASK, close_to_others
from cluster.settings import Settings
from cluster.values import Stored

SESSION_VARIABLE = "RAYLOOP_SESSION"
LAYOUT = 2
"""Incremented by a release that moves modules of actors or Serve applications: running clusters name their paths."""
_GIB = 1024**3
MIN_MEMORY_GIB = 4
_START_SECONDS = 120
_STOP_SECONDS = 5
_POLL_SECONDS = 0.1
_AGENT_PORTS = (
    "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)


class _Session(Stored, stored_as="cluster session"):
    """The content of ``cluster.json``."""

    session: str
    """Value of ``RAYLOOP_SESSION`` in the environment of the cluster's processes."""
    layout: int = 1
    """``LAYOUT`` of the release that started the cluster; the first release did not write it."""
    gcs_address: str = ""
    """``host:port`` through which drivers join a cluster of several machines; empty: the loopback address."""


# Python warns about a child process that is garbage-collected while it runs; this one outlives the command.
_servers: list[subprocess.Popen[bytes]] = []


def start(settings: Settings, report: Callable[[str], None] = lambda line: None) -> bool:
    """Start the local cluster and MLflow's server, unless they are running.

    Args:
        settings: Ports, CPUs and stores of the cluster.
        report: Called with a line before the slow part begins.

    Returns:
        Whether they were started.

    Raises:
        PortInUse: A port of the settings is taken.
        OutOfMemory: The machine has too little free memory.
        ClusterUnavailable: Another release started the running cluster, or Ray or MLflow did not start.
        RayloopError: The home is open to other users, and belongs to one of them.
    """
    if is_running(settings):
        require_current_layout(settings)
        return False
    # A cluster that partly died may have left processes that hold its ports.
    stop(settings)
    check_memory()
    _check_ports(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    _close([settings.home])
    # Ray's logs are kept after a stop, to diagnose it, until the next start.
    shutil.rmtree(settings.scratch, ignore_errors=True)
    settings.scratch.mkdir(mode=0o700)
    # The members of the cluster before this one.
    shutil.rmtree(settings.door_folder, ignore_errors=True)
    environment = local_environment(settings) | open_session(settings)
    _ensure_token(environment)
    report("starting Ray and MLflow")
    server = start_mlflow(settings, environment)
    _ray_start(settings, environment)
    _await_mlflow(settings, server)
    if settings.door:
        _start_door(settings, environment)
    return True


def open_session(settings: Settings, gcs_address: str = "") -> dict[str, str]:
    """Begin a session of this home's cluster. Returns the variable that its processes must inherit."""
    session = uuid.uuid4().hex
    stored = _Session(session=session, layout=LAYOUT, gcs_address=gcs_address)
    _session_file(settings).write_text(stored.model_dump_json())
    return {SESSION_VARIABLE: session}


def gcs_address(settings: Settings) -> str:
    """Return the address, ``host:port``, through which drivers on this machine join this home's cluster."""
    stored = _session(settings)
    return (stored.gcs_address if stored else "") or f"127.0.0.1:{settings.gcs_port}"


def is_running(settings: Settings) -> bool:
    """Return whether this home's cluster runs and answers."""
    return bool(processes(settings)) and _listens(settings.dashboard_port) and _listens(settings.gcs_port)


def require_current_layout(settings: Settings) -> None:
    """Check that this home's cluster, when there is one, was started by a release with the same module paths.

    Raises:
        ClusterUnavailable: An earlier or a later release started it.
    """
    stored = _session(settings)
    if stored is not None and stored.layout != LAYOUT and is_running(settings):
        release = "an earlier" if stored.layout < LAYOUT else "a later"
        raise ClusterUnavailable("cluster.other_release", release=release, layout=stored.layout)


def stop(settings: Settings) -> int:
    """End every process of this home's cluster.

    Returns:
        The number of processes.

    Raises:
        ClusterUnavailable: A process survives SIGKILL.
    """
    count = end_processes(settings)
    _session_file(settings).unlink(missing_ok=True)
    return count


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


def metrics_folder(settings: Settings) -> Path:
    """Folder with Ray's configuration of Prometheus and Grafana for this home's cluster."""
    return settings.scratch / "ray" / "session_latest" / "metrics"


def discovery_file(settings: Settings) -> Path:
    """File in which Ray lists the addresses for Prometheus to scrape."""
    return settings.scratch / "ray" / "prom_metrics_service_discovery.json"


def close_files(settings: Settings) -> int:
    """Close Ray's token, and all files of this home, to other users of the machine.

    Returns:
        How many were open to them.

    Raises:
        RayloopError: One that is open belongs to another user.
    """
    # Folders before what they hold: a home that is closed protects the rest meanwhile.
    within = (Path(top, name) for top, folders, files in os.walk(settings.home) for name in (*folders, *files))
    return _close(chain([token_file(), settings.home], within))


def _close(paths: Iterable[Path]) -> int:
    try:
        return close_to_others(paths)
    except PermissionError as error:
        raise RayloopError("rayloop.file_open_to_others", path=error.filename) from error


def free_port() -> int:
    """Return a port of the loopback address that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def agent_ports(command: Sequence[str] = ()) -> list[str]:
    """Return options of ``ray start`` that give Ray's agents free ports, except those that the command gives.

    A raylet whose agents choose their own ports waits 15 s for them, then aborts: too short on a machine that boots.
    """
    options = [option for option in _AGENT_PORTS if not any(word.split("=")[0] == option for word in command)]
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("", 0))) for _ in options]
        return [f"{name}={taken.getsockname()[1]}" for name, taken in zip(options, sockets, strict=True)]


def _ray_start(settings: Settings, environment: dict[str, str]) -> None:
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={settings.gcs_port}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={settings.dashboard_port}",
        f"--ray-client-server-port={free_port()}", *agent_ports(),
        # Random worker ports, so that no range is reserved that other settings or a second cluster need.
        "--min-worker-port=0", "--max-worker-port=0", f"--num-cpus={settings.cpus}",
    ]  # fmt: skip
    log = settings.home / "ray-start.log"
    try:
        with log.open("w") as out:
            subprocess.run(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                timeout=_START_SECONDS, check=True, umask=PRIVATE_UMASK,
            )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        stop(settings)
        code = getattr(error, "returncode", None)
        reason = f"`ray start` exited with code {code}" if code else f"no answer within {_START_SECONDS} s"
        raise ClusterUnavailable("cluster.not_started", reason=reason, log=str(log)) from error


def start_mlflow(
    settings: Settings, environment: dict[str, str], login: bool = False
) -> subprocess.Popen[bytes] | None:
    """Start MLflow's web pages on this machine's loopback address, unless a remote store has its own.

    Args:
        settings: Port and stores.
        environment: Variables of the server.
        login: Require Ray's token as the password (cluster/web/mlflow_login.py).

    Returns:
        The server's process, if there is one.
    """
    if settings.tracking_uri.startswith("http"):
        return None
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(settings.mlflow_port),
        "--workers", "1", *(["--app-name", "rayloop"] if login else []),
    ]  # fmt: skip
    environment = environment | {
        # Every user of the machine sees arguments, and an address may contain a password.
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.mlflow_artifacts,
        # The pages need none of its background job runners.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (settings.home / "mlflow.log").open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True, cwd=settings.home, umask=PRIVATE_UMASK,
        )  # fmt: skip
    _servers.append(process)
    return process


def _await_mlflow(settings: Settings, server: subprocess.Popen[bytes] | None) -> None:
    """Wait for the pages: until then the server creates its tables, and two processes that do so at once both fail."""
    deadline = time.monotonic() + _START_SECONDS
    while server is not None and not mlflow_answers(settings):
        if server.poll() is not None or time.monotonic() > deadline:
            stop(settings)
            raise ClusterUnavailable("cluster.mlflow_not_started", log=str(settings.home / "mlflow.log"))
        time.sleep(_POLL_SECONDS)


def _start_door(settings: Settings, environment: dict[str, str]) -> None:
    """Start the door's supervisor, and wait until HAProxy answers."""
    log = settings.home / "door.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.door"], env=environment, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, umask=PRIVATE_UMASK,
        )  # fmt: skip
    _servers.append(process)
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(settings.haproxy_metrics_port):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(settings)
            raise ClusterUnavailable("cluster.door_not_started", log=str(log))
        time.sleep(_POLL_SECONDS)


def mlflow_answers(settings: Settings) -> bool:
    """Whether MLflow's web pages accept connections."""
    return _listens(settings.mlflow_port)


def _ensure_token(environment: dict[str, str]) -> None:
    if environment["RAY_AUTH_MODE"] != "token" or read_token():
        return
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run(
        [ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True, umask=PRIVATE_UMASK
    )


def check_memory() -> float:
    """Return the available memory in GiB. Raises OutOfMemory when it is too little for a cluster."""
    available = psutil.virtual_memory().available / _GIB
    if available < MIN_MEMORY_GIB:
        raise OutOfMemory("memory.too_little", available_gib=available, minimum_gib=MIN_MEMORY_GIB)
    return available


def _check_ports(settings: Settings) -> None:
    for name in (field for field in Settings.model_fields if field.endswith("_port")):
        port = getattr(settings, name)
        if _listens(port):
            raise PortInUse(
                "cluster.port_in_use",
                port=port,
                service=name.replace("_", " "),
                holder=_holder(port),
                variable=f"RAYLOOP_{name.upper()}",
            )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return bool(probe.connect_ex(("127.0.0.1", port)) == 0)


def _holder(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def _variable(process: psutil.Process, name: str) -> str:
    """A variable of a process's environment; empty where it has none, or cannot be read."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return str(process.environ().get(name, ""))
    return ""


def _session_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def _session(settings: Settings) -> _Session | None:
    path = _session_file(settings)
    return _Session.from_stored(path.read_bytes()) if path.exists() else None
