"""Serve's own HAProxy before the same replicas: Ray's class that writes its configuration and reloads it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from ray.serve._private import haproxy
from ray.serve.config import HTTPOptions

from benchmarks.cluster.replicas import MODEL, FakeReplica
from cluster.node.ports import free_port

# As Serve's manager does, one reload for the changes of a tenth of a second.
_COALESCE_S = 0.1


class ServeHaproxy:
    """Follows replicas as Serve's manager does, with rayloop's settings for it. All methods run in one event loop."""

    def __init__(self, port: int, folder: Path) -> None:
        config = haproxy.HAProxyConfig(
            socket_path=str(folder / "admin.sock"),
            server_state_base=str(folder),
            server_state_file=str(folder / "server-state"),
            stats_port=free_port(),
            metrics_port=free_port(),
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            retry_on="conn-failure empty-response\n    option http-buffer-request",
            retries=3,
            metrics_enabled=False,
        )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self.reloads = 0
        self._api = haproxy.HAProxyApi(config, config_file_path=str(folder / "haproxy.cfg"))
        self._task: asyncio.Task[None] | None = None
        self._latest: Sequence[FakeReplica] = ()

    async def start(self, replicas: Sequence[FakeReplica]) -> None:
        """Start HAProxy."""
        self._set(replicas)
        await self._api.start()

    async def follow(self, replicas: Sequence[FakeReplica]) -> None:
        """Reload with these replicas, soon."""
        self._latest = tuple(replicas)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._apply())

    async def stop(self) -> None:
        """Stop HAProxy and its old processes."""
        if self._task is not None:
            await self._task
        await self._api.stop()

    async def _apply(self) -> None:
        applied: Sequence[FakeReplica] = ()
        while applied != self._latest:
            await asyncio.sleep(_COALESCE_S)
            applied = self._latest
            self._set(applied)
            await self._api.reload()
            self.reloads += 1

    def _set(self, replicas: Sequence[FakeReplica]) -> None:
        servers = [haproxy.ServerConfig(f"r{r.port}", "127.0.0.1", r.port) for r in replicas]
        backend = haproxy.BackendConfig(
            name=f"http-{MODEL}", path_prefix=f"/v2/models/{MODEL}", servers=servers, app_name=MODEL
        )
        self._api.set_backend_configs({backend.name: backend})
