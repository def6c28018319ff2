"""Ray's head and workers, a host each."""

from __future__ import annotations

import secrets

from tests.hosts.host import Host

GCS_PORT = 6379
START_S = 180.0
"""Seconds that a node may take to start. ``ray start`` itself waits forever for a head that is not there."""
ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_DISABLE_IMPORT_WARNING": "1"}
TOKEN = "/root/.ray/auth_token"


def start_head(host: Host, *options: str, cpus: int = 1) -> str:
    """Start a cluster's head; return the token that its workers need."""
    token = secrets.token_hex(32)
    host.write(TOKEN, token)
    _start(host, "--head", f"--port={GCS_PORT}", "--include-dashboard=false", *options, cpus=cpus)
    return token


def start_worker(host: Host, head: Host, token: str, *options: str, cpus: int = 1) -> None:
    """Start a node that joins the head's cluster."""
    host.write(TOKEN, token)
    _start(host, f"--address={head.address}:{GCS_PORT}", *options, cpus=cpus)


def _start(host: Host, *options: str, cpus: int) -> None:
    size = (f"--num-cpus={cpus}", "--object-store-memory=100000000")
    start = ("ray", "start", f"--node-ip-address={host.address}", "--disable-usage-stats", *size, *options)
    host.run(*start, env=ENVIRONMENT, timeout_s=START_S)
