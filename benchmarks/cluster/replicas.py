"""Replicas and a Serve controller that are not real: they answer as fast as they can, and their ends are on command."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cluster.door.membership import Replica, Target
from cluster.door.moves import Moves

MODEL = "flights"


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60.0)

    def close(self) -> None:
        """End everything that runs in the loop, and the loop."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        """End what serves, and close its connections."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def listen(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = "127.0.0.1",
    port: int = 0,
) -> asyncio.Server:
    """A server at a port, or a free one, which closes every connection that it has served, and itself with its loop."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            """The caller, or the test, has gone."""
        finally:
            writer.close()

    server = await asyncio.start_server(serve_and_close, host, port, backlog=1024)
    server.task = asyncio.create_task(server.serve_forever())  # type: ignore[attr-defined]
    return server


class FakeReplica:
    """Answers HTTP with its name and what it got; the path may say how long to take, or to die.

    A replica that leaves fails its check and still answers, as Serve's do. A full one answers 503.
    """

    def __init__(self, name: str) -> None:
        self.name, self.leaving, self.full, self.requests, self.in_progress = name, False, False, 0, 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> FakeReplica:
        """Listen at a port, 0 for a free one."""
        self._server = await listen(self._serve, host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def replica(self) -> Replica:
        """Its addresses; it has no gRPC."""
        return Replica(http=Target(host="127.0.0.1", port=self.port))

    async def kill(self) -> None:
        """End as a process that is killed: without an answer."""
        self._server.close()
        for writer in [*self._writers]:
            writer.transport.abort()

    async def stop(self) -> None:
        """End once all is answered, as Serve's replicas do."""
        self.leaving = True
        while self.in_progress:
            await asyncio.sleep(0.01)
        await self.kill()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                await self._serve_request(reader, writer)
        finally:
            self._writers.discard(writer)

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        method, path, _ = head.split("\r\n", 1)[0].split()
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
        await reader.readexactly(length)
        if path == "/-/healthz":
            await self._answer(writer, 503 if self.leaving else 200, b"")
            return
        self.requests += 1
        if "/die" in path:
            await self.kill()
            raise ConnectionError
        if self.full:
            await self._answer(writer, 503, self.name.encode())
            return
        self.in_progress += 1
        try:
            await asyncio.sleep(float(path.rpartition("/sleep/")[2]) if "/sleep/" in path else 0.0)
            body = json.dumps({"replica": self.name, "path": path, "bytes": length}).encode()
            await self._answer(writer, 200, b"" if method == "head" else body)
        finally:
            self.in_progress -= 1

    async def _answer(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        writer.write(b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()


class FakeServe:
    """The part of Serve's REST API that says where replicas are."""

    def __init__(self) -> None:
        self.models: dict[str, list[Replica]] = {}
        self.root: list[Replica] = []
        self.moves = Moves()
        self.away = False

    async def start(self) -> FakeServe:
        """Listen at a free port."""
        self._server = await listen(self._serve)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def details(self) -> dict[str, Any]:
        """The answer, as far as the door reads it."""
        routes = {"/v2": self.root} | {f"/v2/models/{model}": replicas for model, replicas in self.models.items()}
        groups = []
        for route, replicas in routes.items():
            for protocol in ("HTTP", "gRPC"):
                targets = [
                    {"name": f"SERVE_REPLICA::{route}-{r.http.address}", "ip": t.host, "port": t.port}
                    for r in replicas
                    if (t := r.http if protocol == "HTTP" else r.grpc)
                ]
                groups.append({"route_prefix": route, "protocol": protocol, "targets": targets})
        applications: dict[str, Any] = {route: {"route_prefix": route} for route in routes}
        config = {"deployments": [{"user_config": self.moves.model_dump(mode="json")}]}
        applications["/v2"]["deployed_app_config"] = config
        return {"controller_info": {"actor_id": "1"}, "applications": applications, "target_groups": groups}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not self.away:
            body = json.dumps(self.details()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
