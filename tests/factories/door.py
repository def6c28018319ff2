"""A door with its real HAProxy, before replicas and a Serve controller that are not real."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.door.admin_socket import AdminSocket
from cluster.door.membership import Replica, Target
from cluster.settings import Settings
from deployments.protocol import inference_pb2
from deployments.protocol.inference_pb import add_inference_service
from tests.factories.until import until

MODEL = "flights"


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60.0)

    def close(self) -> None:
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


async def listen(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    """A server at a free port, which closes every connection that it has served, and itself with its loop."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            """The caller, or the test, has gone."""
        finally:
            writer.close()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0, backlog=1024)
    server.task = asyncio.create_task(server.serve_forever())  # type: ignore[attr-defined]
    return server


class FakeReplica:
    """Answers HTTP with its name and what it got; the path may say how long to take, or to die.

    A replica that leaves fails its check and still answers, as Serve's do.
    """

    def __init__(self, name: str) -> None:
        self.name, self.leaving, self.requests, self.in_progress = name, False, 0, 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> FakeReplica:
        self._server = await listen(self._serve)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def replica(self) -> Replica:
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
        self.away = False

    async def start(self) -> FakeServe:
        self._server = await listen(self._serve)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def details(self) -> dict[str, Any]:
        routes = {"/v2": self.root} | {f"/v2/models/{model}": replicas for model, replicas in self.models.items()}
        groups = []
        for route, replicas in routes.items():
            for protocol in ("HTTP", "gRPC"):
                targets = [
                    {"name": f"{route}-{r.http.port}", "ip": t.host, "port": t.port}
                    for r in replicas
                    if (t := r.http if protocol == "HTTP" else r.grpc)
                ]
                groups.append({"route_prefix": route, "protocol": protocol, "targets": targets})
        applications = {route: {"route_prefix": route} for route in routes}
        return {"controller_info": {"actor_id": "1"}, "applications": applications, "target_groups": groups}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not self.away:
            body = json.dumps(self.details()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()


class Door:
    """The processes of a door.

    Args:
        settings: Its settings; the dashboard's address is FakeServe's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.door_folder
        self.admin = AdminSocket(self.folder / "admin.sock", self.folder / "models.map")
        self._log = (settings.home / "door.log").open("a")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | self.settings.environment()
        command = [sys.executable, "-m", "cluster.door"]
        return subprocess.Popen(command, env=environment, stderr=self._log, start_new_session=True)

    def start_again(self) -> None:
        """Another supervisor, as a service manager starts it."""
        self.process = self._start()

    @property
    def haproxy(self) -> int:
        """Process id of HAProxy; 0 when it does not answer."""
        running = self.admin.info()
        return running.pid if running else 0

    @property
    def supervisors(self) -> list[int]:
        """Process ids of the supervisor and of the standby."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "cluster.door" in process.cmdline() and self._owns(process):
                    found.append(process.pid)
        return sorted(found)

    def _owns(self, process: psutil.Process) -> bool:
        return process.environ().get("RAYLOOP_HOME") == str(self.settings.home)

    @property
    def leader(self) -> int:
        """Process id of the one that supervises; 0 when there is none."""
        return next((pid for pid in self.supervisors if self._holds_lock(pid)), 0)

    def _holds_lock(self, pid: int) -> bool:
        inode = (self.folder / "supervisor.lock").stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(
            line[1] == "FLOCK" and "->" not in line and int(line[4]) == pid and line[5].endswith(f":{inode}")
            for line in locks
        )

    def taking(self) -> set[int]:
        """Ports of the replicas that are up."""
        return {target.port for target in self.admin.held().healthy}

    def close(self) -> None:
        for _ in range(3):
            for pid in self.supervisors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if pid := self.haproxy:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()
        shutil.rmtree(self.folder)


class Outcome(NamedTuple):
    """A request: when it was due and ended, seconds of the monotonic clock; its status, or what failed."""

    due: float
    ended: float
    status: str


class SteadyLoad:
    """Requests at a steady rate over connections that stay open, and every ``long_every``-th takes ``long_s``."""

    def __init__(
        self,
        loop: Loop,
        port: int,
        rate: float,
        *,
        long_every: int = 0,
        long_s: float = 0.0,
        ssl: Any = None,
        keep_alive: bool = True,
    ) -> None:
        self._port, self._rate, self._long_every, self._long_s, self._ssl = port, rate, long_every, long_s, ssl
        self._loop, self._keep_alive, self._over = loop, keep_alive, False
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> SteadyLoad:
        self._done = asyncio.run_coroutine_threadsafe(self._run(), self._loop.loop)
        return self

    def __exit__(self, *unused: object) -> None:
        self._over = True
        self._done.result(120.0)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status != "200"]

    @property
    def longest_gap_s(self) -> float:
        """The longest time in which no request ended well."""
        ends = sorted(outcome.ended for outcome in self.outcomes if outcome.status == "200")
        return max((b - a for a, b in itertools.pairwise(ends)), default=float("inf"))

    def await_answers(self, count: int) -> None:
        """Until that many more have been answered."""
        before = len(self.outcomes)
        until(lambda: len(self.outcomes) >= before + count, f"{count} more answers")

    async def _run(self) -> None:
        tasks, started, number = set(), time.monotonic(), 0
        while not self._over:
            due = started + number / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            is_long = self._long_every and number % self._long_every == 0
            task = asyncio.create_task(self._request(due, self._long_s if is_long else 0.0))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()

    async def _request(self, due: float, sleep_s: float) -> None:
        path = f"/v2/models/{MODEL}/sleep/{sleep_s}" if sleep_s else f"/v2/models/{MODEL}/infer"
        try:
            status = await asyncio.wait_for(self._exchange(path), 60.0)
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        self.outcomes.append(Outcome(due, time.monotonic(), status))

    async def _exchange(self, path: str) -> str:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._ssl)
        try:
            writer.write(f"POST {path} HTTP/1.1\r\nhost: door\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head or not self._keep_alive:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head.split()[1]


class _Servicer:
    """Says which application answers, and for which one it was called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerMetadataResponse(name=self._name)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ModelReadyResponse(ready=request.name == self._name)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.ModelMetadataResponse(name=request.name, platform=self._name)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        application = dict(context.invocation_metadata()).get("application")
        names = {"model_name": request.model_name, "model_version": self._name}
        return inference_pb2.ModelInferResponse(**names, id=str(application))


@contextlib.contextmanager
def grpc_replica(name: str) -> Iterator[Target]:
    """The address of a gRPC server that answers as a replica of that application does."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_inference_service(_Servicer(name), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Target(host="127.0.0.1", port=port)
    finally:
        server.stop(None).wait()


def self_signed() -> str:
    """A new certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "door")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form)).decode()


@contextlib.contextmanager
def running_door(settings: Settings, **changes: Any) -> Iterator[tuple[Door, FakeServe, Loop]]:
    """A door, the Serve that it follows, and the loop for replicas and load."""
    loop = Loop()
    serve = loop.run(FakeServe().start())
    door = Door(settings.model_copy(update={"address": serve.address, **changes}))
    try:
        until(lambda: door.haproxy, "HAProxy answers", 20.0)
        yield door, serve, loop
    finally:
        door.close()
        loop.close()
