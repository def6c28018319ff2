"""The bypass around Serve: from uvicorn's connection to a handler, and the response back in one write.

Behind HAProxy a replica runs its own HTTP server, uvicorn, and Serve wraps each of its requests in two tasks, a
semaphore, contexts, a log record and metrics: together more work than a small model. ``install_route`` makes uvicorn
create connections that pass the paths of an IngressRoute to its handler and leave all others, among them Serve's health
checks, to Serve. uvicorn still handles keep-alive, pipelining and the graceful end of a connection. What Serve would do
for these requests happens here: a bound on concurrent requests (503) and a time limit (408).

A response is one write: a replica that is killed has sent all of it or nothing, and HAProxy repeats the request.
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

CHECK_INTERVAL_S = 1.0
_LARGE_BODY = 64 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# For uvicorn to set when nothing waits.
_UNUSED_EVENT = asyncio.Event()


class IngressRoute(NamedTuple):
    """The requests that bypass Serve, and their limits."""

    handle: Callable[[HttpRequest], Awaitable[HttpResponse]]
    prefix: bytes
    """Prefix of their targets."""
    body_bytes: Callable[[], int]
    """Returns the largest body."""
    max_requests: int
    """Most requests in progress; more get 503."""
    retry_after_s: int
    """``Retry-After`` of a 503."""
    timeout_s: float
    """A request that takes longer is canceled and gets a 408."""
    buffer_bytes: int = 128 * 1024**2
    """Most bytes of all bodies that have not been answered; a body beyond it gets 503."""
    body_s: float = 30.0
    """Seconds within which a large body must arrive; later ones get 408."""
    record_refusal: Callable[[str, int, float], object] = lambda method, status, seconds: None
    """Called with method, status and seconds of each 503 and 408: the handler does not see how these end."""


def install_route(route: IngressRoute) -> Callable[[], int]:
    """Make the uvicorn servers that start in this process from now on use ``route``.

    Returns:
        A function that returns the number of requests in progress.
    """
    limiter = ConcurrencyLimiter(route)
    # Serve leaves uvicorn's protocol at "auto", which resolves to this name.
    auto.AutoHTTPProtocol = partial(IngressProtocol, limiter)  # type: ignore[assignment]
    return limiter.count


class ConcurrencyLimiter:
    """Bounds the number and the duration of requests.

    One periodic check finds late requests: a timer for each would cost as much as parsing its JSON.
    """

    def __init__(self, route: IngressRoute) -> None:
        self.route = route
        self._since: dict[asyncio.Task[HttpResponse], float] = {}
        self._late: set[asyncio.Task[HttpResponse]] = set()
        self._checking = False
        self.buffered = 0
        """Bytes of bodies that have not been answered: these take memory before the caller is authenticated."""

    def count(self) -> int:
        """Number of requests in progress."""
        return len(self._since)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """The handler's response; 503 beyond the limit, 408 after the time limit."""
        route, task = self.route, asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        started = loop.time()
        if len(self._since) >= route.max_requests:
            return self.refuse(request.method, _overloaded(route.retry_after_s), 0.0)
        self._since[task] = started
        if not self._checking:
            self._cancel_late(loop)
        try:
            return await route.handle(request)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            late = RequestError("request.timed_out", timeout_s=route.timeout_s)
            return self.refuse(request.method, late, loop.time() - started)
        finally:
            del self._since[task]
            self._late.discard(task)

    def refuse(self, method: str, error: RequestError, seconds: float) -> HttpResponse:
        """The response to a request that the handler does not see."""
        self.route.record_refusal(method, error.status, seconds)
        return error_response(error)

    def _cancel_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel late requests, oldest first; repeats until none is in progress."""
        for task, since in self._since.items():
            if loop.time() - since < self.route.timeout_s:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._checking = bool(self._since)
        if self._checking:
            loop.call_later(CHECK_INTERVAL_S, self._cancel_late, loop)


class IngressProtocol(HttpToolsProtocol):
    """A connection whose requests the route or Serve answers."""

    cycle: Any

    def __init__(self, limiter: ConcurrencyLimiter, **uvicorn_args: Any) -> None:
        super().__init__(**uvicorn_args)
        self.limiter = limiter
        self._route = limiter.route

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        if not self.url.startswith(self._route.prefix) or self.parser.should_upgrade():
            self._leave_to_serve()
            return
        before, self.cycle = self.cycle, RequestCycle(self)
        if before is None or before.response_complete:
            self.cycle.turn = True
            if self.expect_100_continue:
                self.transport.write(_CONTINUE)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        if not isinstance(self.cycle, RequestCycle):
            super().on_body(body)
        elif not self.cycle.body_complete:
            self._buffer(self.cycle, body)

    def on_message_complete(self) -> None:
        if not isinstance(self.cycle, RequestCycle):
            super().on_message_complete()
        elif not self.cycle.body_complete:
            self._complete(self.cycle)

    def _buffer(self, cycle: RequestCycle, part: bytes) -> None:
        """Keep a part of a body, unless it is too large, too much with all others, or too slow."""
        was_large, limit = len(cycle.body) > _LARGE_BODY, self._route.body_bytes()
        cycle.body += part
        self.limiter.buffered += len(part)
        if len(cycle.body) > limit:
            self._complete(cycle)
        elif self.limiter.buffered > max(self._route.buffer_bytes, limit):
            self._give_up(cycle, _overloaded(self._route.retry_after_s))
        elif not was_large and len(cycle.body) > _LARGE_BODY:
            self.loop.call_later(self._route.body_s, self._give_up, cycle, RequestError("request.too_slow"))

    def _give_up(self, cycle: RequestCycle, error: RequestError) -> None:
        if not cycle.body_complete and not cycle.disconnected:
            cycle.refusal = error
            cycle.release()
            self._complete(cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in (self.cycle, *(waiting for waiting, _ in self.pipeline)):
            # No task runs for these, which would release their bodies.
            if isinstance(cycle, RequestCycle) and not (cycle.body_complete and cycle.turn):
                cycle.release()

    def _complete(self, cycle: RequestCycle) -> None:
        """The body is complete, or as long as the limit allows."""
        cycle.body_complete = True
        cycle.message_event.set()
        if cycle.turn:
            self._start_asgi_task(cycle, self.app)  # type: ignore[arg-type]

    def _leave_to_serve(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()


class RequestCycle:
    """A request and its response, in place of uvicorn's RequestResponseCycle; uvicorn prescribes the names it uses.

    ``turn`` is False while an earlier request of the connection is in progress; uvicorn then calls ``run_asgi``.
    """

    __slots__ = (
        "body", "body_complete", "connection", "disconnected", "headers", "keep_alive", "message_event", "method",
        "refusal", "response_complete", "turn", "url",
    )  # fmt: skip

    def __init__(self, connection: IngressProtocol) -> None:
        parser = connection.parser
        self.connection = connection
        self.method = parser.get_method().decode("ascii")
        self.url = connection.url
        self.headers = dict(connection.headers)
        self.keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        self.body = bytearray()
        self.refusal: RequestError | None = None
        self.body_complete = self.turn = self.disconnected = self.response_complete = False
        self.message_event = _UNUSED_EVENT

    async def run_asgi(self, app: object) -> None:
        """Respond; ``app`` is Serve's, and unused."""
        if not self.body_complete:
            self.message_event = asyncio.Event()
            await self.message_event.wait()
        if self.disconnected:
            return
        limiter = self.connection.limiter
        try:
            if self.refusal is not None:
                self._send(limiter.refuse(self.method, self.refusal, 0.0))
                return
            request = HttpRequest(self.method, self._path(), self.headers, self._receive)
            self._send(await limiter.handle(request))
        except BaseException:
            # No byte of the response has been sent: the caller can retry on another replica.
            self.connection.transport.close()
            raise
        finally:
            self.release()

    def release(self) -> None:
        """Let the body go."""
        self.connection.limiter.buffered -= len(self.body)
        self.body = bytearray()

    def _path(self) -> str:
        path = self.url.partition(b"?")[0].decode("latin-1")
        return unquote(path) if "%" in path else path

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(self.body), "more_body": False}

    def _send(self, response: HttpResponse) -> None:
        if self.disconnected:
            return
        connection = self.connection
        self.response_complete = True
        connection.transport.write(self._encode(response))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def _encode(self, response: HttpResponse) -> bytes:
        lines = [STATUS_LINE[response.status]]
        for name, value in self.connection.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        head = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        end = "" if self.keep_alive else "connection: close\r\n"
        head = f"{head}content-type: {response.content_type}\r\ncontent-length: {len(response.body)}\r\n{end}\r\n"
        lines.append(head.encode("latin-1"))
        if self.method != "HEAD":
            lines.append(response.body)
        return b"".join(lines)


def _overloaded(retry_after_s: int) -> RequestError:
    return RequestError("request.overloaded", headers={"retry-after": str(retry_after_s)}, retry_after_s=retry_after_s)
