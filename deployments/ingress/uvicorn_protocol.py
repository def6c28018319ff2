"""Requests past Serve: from uvicorn's connection to a handler, and the answer back in one write.

Behind HAProxy a replica runs an HTTP server of its own, uvicorn, and Serve wraps each of its requests in two tasks, a
semaphore, contexts, a log record and metrics: together more work than a small model is. ``install`` has uvicorn make
connections that take the paths of ``Door`` to its handler and leave all others, Serve's health checks among them, to
Serve. Keep-alive, pipelining and the graceful end of a connection remain uvicorn's. What Serve would have done for these
requests is done here: a bound on requests under way (503) and a time limit (408).

An answer is one write: a replica that is killed has sent all of it or nothing, and HAProxy repeats the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cluster.errors import RequestError
from deployments.http_messages import HttpRequest, HttpResponse, error_response

_WATCH_EVERY_S = 1.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Stands where uvicorn wants to wake somebody and nobody waits.
_NOBODY = asyncio.Event()


class IngressRoute(NamedTuple):
    """What is taken past Serve: requests whose target begins with ``prefix``, a body of at most ``body_bytes()``.

    No more than ``most`` requests are under way at once; others are told to come back after ``retry_after_s``. A request
    that takes longer than ``within_s`` is given up.
    """

    handle: Callable[[HttpRequest], Awaitable[HttpResponse]]
    prefix: bytes
    body_bytes: Callable[[], int]
    most: int
    retry_after_s: int
    within_s: float


def install_route(door: IngressRoute) -> Callable[[], int]:
    """Have the uvicorn servers of this process, those that are yet to start, answer through ``door``.

    Returns what tells how many requests are under way or wait.
    """
    room = _Room(door)
    # Serve leaves uvicorn's choice of a protocol at "auto", which is looked up here.
    auto.AutoHTTPProtocol = partial(_Connection, room)  # type: ignore[assignment]
    return room.count


class _Room:
    """Requests under way. They are looked through now and then: a timer for each would cost what its JSON does."""

    def __init__(self, door: IngressRoute) -> None:
        self.door = door
        self._since: dict[asyncio.Task[HttpResponse], float] = {}
        self._late: set[asyncio.Task[HttpResponse]] = set()
        self._watched = False

    def count(self) -> int:
        """How many are under way."""
        return len(self._since)

    async def answer(self, call: HttpRequest) -> HttpResponse:
        """The handler's reply, or a refusal."""
        door, task = self.door, asyncio.current_task()
        assert task is not None
        if len(self._since) >= door.most:
            return _refusal("too many requests at once", 503, {"retry-after": str(door.retry_after_s)})
        loop = asyncio.get_running_loop()
        self._since[task] = loop.time()
        if not self._watched:
            self._watch(loop)
        try:
            return await door.handle(call)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            return _refusal(f"no answer within {door.within_s:g} s", 408, {})
        finally:
            del self._since[task]
            self._late.discard(task)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up what is late, oldest first, until nothing is under way."""
        for task, since in self._since.items():
            if loop.time() - since < self.door.within_s:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watched = bool(self._since)
        if self._watched:
            loop.call_later(_WATCH_EVERY_S, self._watch, loop)


class _Connection(HttpToolsProtocol):
    """A connection whose requests are answered by the door, or by Serve."""

    cycle: Any

    def __init__(self, room: _Room, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.room = room
        self._door = room.door

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        if not self.url.startswith(self._door.prefix) or self.parser.should_upgrade():
            self._leave_to_serve()
            return
        before, self.cycle = self.cycle, _Exchange(self)
        if before is None or before.response_complete:
            self.cycle.turn = True
            if self.expect_100_continue:
                self.transport.write(_CONTINUE)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        if not isinstance(self.cycle, _Exchange):
            super().on_body(body)
        elif not self.cycle.whole:
            self.cycle.body += body
            if len(self.cycle.body) > self._door.body_bytes():
                self._complete(self.cycle)

    def on_message_complete(self) -> None:
        if not isinstance(self.cycle, _Exchange):
            super().on_message_complete()
        elif not self.cycle.whole:
            self._complete(self.cycle)

    def _complete(self, exchange: _Exchange) -> None:
        """All of the body is there, or as much as will be read."""
        exchange.whole = True
        exchange.message_event.set()
        if exchange.turn:
            self._start_asgi_task(exchange, self.app)  # type: ignore[arg-type]

    def _leave_to_serve(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()


class _Exchange:
    """A request and its answer, where uvicorn keeps its RequestResponseCycle: the names of what it touches are uvicorn's.

    ``turn`` is False while an earlier request of the connection is not answered; uvicorn then calls ``run_asgi``.
    """

    __slots__ = (
        "body", "connection", "disconnected", "headers", "keep_alive", "message_event", "method", "response_complete",
        "turn", "url", "whole",
    )  # fmt: skip

    def __init__(self, connection: _Connection) -> None:
        parser = connection.parser
        self.connection = connection
        self.method = parser.get_method().decode("ascii")
        self.url = connection.url
        self.headers = dict(connection.headers)
        self.keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        self.body = bytearray()
        self.whole = self.turn = self.disconnected = self.response_complete = False
        self.message_event = _NOBODY

    async def run_asgi(self, app: object) -> None:
        """Answer; ``app`` is Serve's, and not asked."""
        if not self.whole:
            self.message_event = asyncio.Event()
            await self.message_event.wait()
        if self.disconnected:
            return
        try:
            call = HttpRequest(self.method, self._path(), self.headers, self._receive)
            self._send(await self.connection.room.answer(call))
        except BaseException:
            # Nothing of the answer is out: whoever asked can ask another replica.
            self.connection.transport.close()
            raise

    def _path(self) -> str:
        path = self.url.partition(b"?")[0].decode("latin-1")
        return unquote(path) if "%" in path else path

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(self.body), "more_body": False}

    def _send(self, reply: HttpResponse) -> None:
        if self.disconnected:
            return
        connection = self.connection
        self.response_complete = True
        connection.transport.write(self._bytes(reply))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def _bytes(self, reply: HttpResponse) -> bytes:
        lines = [STATUS_LINE[reply.status]]
        for name, value in self.connection.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        told = "".join([f"{name}: {value}\r\n" for name, value in reply.headers.items()])
        end = "" if self.keep_alive else "connection: close\r\n"
        told = f"{told}content-type: {reply.content_type}\r\ncontent-length: {len(reply.body)}\r\n{end}\r\n"
        lines.append(told.encode("latin-1"))
        if self.method != "HEAD":
            lines.append(reply.body)
        return b"".join(lines)


def _refusal(what: str, status: int, headers: dict[str, str]) -> HttpResponse:
    return error_response(RequestError(what, status=status, headers=headers))
