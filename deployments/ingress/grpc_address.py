"""The address of a replica's gRPC port: Serve would bind it to all interfaces, whatever its HTTP port is bound to."""

from __future__ import annotations

from typing import Any

from ray.serve._private import default_impl

_ALL = ("0.0.0.0", "::")


def bind_grpc(host: str) -> None:
    """Make the gRPC server that starts in this process from now on listen on ``host`` only."""
    if host in _ALL:
        return
    name = f"[{host}]" if ":" in host else host

    def add_address(grpc_server: Any, server_address: str) -> Any:
        return grpc_server.add_insecure_port(f"{name}:{server_address.rpartition(':')[2]}")

    # Serve imports this function each time that it starts a server.
    default_impl.add_grpc_address = add_address
