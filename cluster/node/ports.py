"""TCP ports of this machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

import psutil

_AGENT_PORTS = (
    "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)


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


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections to a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return bool(probe.connect_ex(("127.0.0.1", port)) == 0)


def holder(port: int) -> str:
    """Name the process that listens on a port, for an error; empty where that is not known."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.NoSuchProcess:
                return ""
    return ""
