"""MLflow's web pages on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster.errors import ClusterUnavailable
from cluster.node import background
from cluster.node.ports import listens
from cluster.settings import Settings


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
    return background.start_server(command, environment, _log_file(settings), settings.home)


def await_server(settings: Settings, server: subprocess.Popen[bytes] | None) -> None:
    """Wait for the pages: until then the server creates its tables, and two processes that do so at once both fail.

    Raises:
        ClusterUnavailable: It ended, or does not answer.
    """
    if server is not None and not background.await_server(server, settings.mlflow_port):
        raise ClusterUnavailable("cluster.mlflow_not_started", log=str(_log_file(settings)))


def answers(settings: Settings) -> bool:
    """Whether MLflow's web pages accept connections."""
    return listens(settings.mlflow_port)


def _log_file(settings: Settings) -> Path:
    return settings.home / "mlflow.log"
