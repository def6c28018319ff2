from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from ray.serve._private import default_impl, grpc_util

from deployments.ingress.grpc_address import bind_grpc


@pytest.mark.parametrize(
    ("host", "bound"),
    [("127.0.0.1", "127.0.0.1:9"), ("::1", "[::1]:9"), ("0.0.0.0", "[::]:9"), ("::", "[::]:9")],
)
def test_serve_binds_grpc_to_the_host(monkeypatch: pytest.MonkeyPatch, host: str, bound: str) -> None:
    addresses: list[str] = []

    class Server:
        def __init__(self, *unused: object, **options: object) -> None:
            """Only what Serve calls before it starts the server."""

        def add_insecure_port(self, address: str) -> None:
            addresses.append(address)

        async def start(self) -> None:
            """Nothing listens."""

        async def wait_for_termination(self) -> None:
            """At once."""

    monkeypatch.setattr(default_impl, "add_grpc_address", default_impl.add_grpc_address)
    monkeypatch.setattr(grpc_util, "gRPCGenericServer", Server)
    monkeypatch.setattr(grpc_util, "add_RayServeAPIServiceServicer_to_server", lambda servicer, server: None)
    bind_grpc(host)

    async def start() -> None:
        options = SimpleNamespace(port=9, grpc_servicer_func_callable=[], enable_reflection=False)
        task, _ = await grpc_util.start_grpc_server(lambda: None, options, event_loop=asyncio.get_running_loop())
        await task

    asyncio.run(start())
    assert addresses == [bound]
