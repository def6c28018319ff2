"""MLflow's web pages on this machine."""

from __future__ import annotations

import subprocess
import sys
import time

from cluster.errors import ClusterUnavailable
from cluster.node.ports import listens
from cluster.permissions import PRIVATE_UMASK
from cluster.settings import Settings

_START_SECONDS = 120
_POLL_SECONDS = 0.1

# Python warns about a child process that is garbage-collected while it runs; this one outlives the command.
_servers: list[subprocess.Popen[bytes]] = []


def start_server(
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


def await_server(settings: Settings, server: subprocess.Popen[bytes] | None) -> None:
    """Wait for the pages: until then the server creates its tables, and two processes that do so at once both fail.

    Raises:
        ClusterUnavailable: It ended, or does not answer.
    """
    deadline = time.monotonic() + _START_SECONDS
    while server is not None and not answers(settings):
        if server.poll() is not None or time.monotonic() > deadline:
            raise ClusterUnavailable("cluster.mlflow_not_started", log=str(settings.home / "mlflow.log"))
        time.sleep(_POLL_SECONDS)


def answers(settings: Settings) -> bool:
    """Whether MLflow's web pages accept connections."""
    return listens(settings.mlflow_port)
