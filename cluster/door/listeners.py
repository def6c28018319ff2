"""The sockets at which the door listens to callers. They outlive HAProxy: while it starts again, callers wait."""

from __future__ import annotations

import socket
import time

from cluster.errors import PortInUse
from cluster.settings import Settings

_BIND_S = 2.0
_BACKLOG = 1024


def open_listeners(settings: Settings) -> tuple[socket.socket, ...]:
    """Open the sockets for HTTP and gRPC. Raises PortInUse when another process has a port."""
    opened: list[socket.socket] = []
    try:
        for variable, port in (("RAYLOOP_SERVE_PORT", settings.serve_port), ("RAYLOOP_GRPC_PORT", settings.grpc_port)):
            opened.append(_bind(settings.serve_host, port, variable))
    except PortInUse:
        for listener in opened:
            listener.close()
        raise
    return tuple(opened)


def _bind(host: str, port: int, variable: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # The HAProxy that this one replaces may be about to close the port.
    deadline = time.monotonic() + _BIND_S
    while True:
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
            return listener
        except OSError as error:
            if time.monotonic() > deadline:
                listener.close()
                raise PortInUse(
                    "cluster.port_in_use", port=port, service="door", holder="", variable=variable
                ) from error
            time.sleep(0.05)
