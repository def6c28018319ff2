"""The Ray cluster of this machine: start it with MLflow's server and the door, and stop every process of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster.errors import ClusterUnavailable, OutOfMemory, PortInUse
from cluster.node import background, mlflow_server
from cluster.node.environment import local_environment
from cluster.node.ports import agent_ports, free_port, holder, listens
from cluster.node.private_files import close_paths
from cluster.node.session import end_processes, is_running, open_session, require_current_layout, session_file
from cluster.node.token import read_token
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import Settings

_GIB = 1024**3
MIN_MEMORY_GIB = 4


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
    close_paths([settings.home])
    # Ray's logs are kept after a stop, to diagnose it, until the next start.
    shutil.rmtree(settings.scratch, ignore_errors=True)
    settings.scratch.mkdir(mode=0o700)
    # The members of the cluster before this one.
    shutil.rmtree(settings.door_folder, ignore_errors=True)
    environment = local_environment(settings) | open_session(settings)
    _ensure_token(environment)
    report("starting Ray and MLflow")
    try:
        server = mlflow_server.start_server(settings, environment)
        _ray_start(settings, environment)
        mlflow_server.await_server(settings, server)
        if settings.door:
            _start_door(settings, environment)
    except ClusterUnavailable:
        stop(settings)
        raise
    return True


def stop(settings: Settings) -> int:
    """End every process of this home's cluster.

    Returns:
        The number of processes.

    Raises:
        ClusterUnavailable: A process survives SIGKILL.
    """
    count = end_processes(settings)
    session_file(settings).unlink(missing_ok=True)
    return count


def metrics_folder(settings: Settings) -> Path:
    """Folder with Ray's configuration of Prometheus and Grafana for this home's cluster."""
    return settings.scratch / "ray" / "session_latest" / "metrics"


def discovery_file(settings: Settings) -> Path:
    """File in which Ray lists the addresses for Prometheus to scrape."""
    return settings.scratch / "ray" / "prom_metrics_service_discovery.json"


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
                timeout=background.START_S, check=True, umask=PRIVATE_UMASK,
            )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        code = getattr(error, "returncode", None)
        reason = f"`ray start` exited with code {code}" if code else f"no answer within {background.START_S:.0f} s"
        raise ClusterUnavailable("cluster.not_started", reason=reason, log=str(log)) from error


def _start_door(settings: Settings, environment: dict[str, str]) -> None:
    """Start the door's supervisor, and wait until HAProxy answers."""
    log = settings.home / "door.log"
    process = background.start_server([sys.executable, "-m", "cluster.door"], environment, log)
    if not background.await_server(process, settings.haproxy_metrics_port):
        raise ClusterUnavailable("cluster.door_not_started", log=str(log))


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
        if listens(port):
            raise PortInUse(
                "cluster.port_in_use",
                port=port,
                service=name.replace("_", " "),
                holder=holder(port),
                variable=f"RAYLOOP_{name.upper()}",
            )
