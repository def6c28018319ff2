"""Requests that bypass Serve, over real connections to a real uvicorn."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto

from cluster.errors import RequestError
from deployments.http_messages import HttpRequest, HttpResponse, error_response
from deployments.ingress import uvicorn_protocol
from deployments.ingress.uvicorn_protocol import IngressProtocol, IngressRoute, install_route

LIMIT = 1000
DEADLINE_S = 20.0


async def echo(request: HttpRequest) -> HttpResponse:
    try:
        body = await request.read_body(LIMIT)
    except RequestError as error:
        return error_response(error)
    return HttpResponse(
        f"{request.method} {request.path} ".encode() + body, headers={"x-own": "1"}, content_type="text/plain"
    )


async def serve_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"serve"})


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[HttpRequest], Awaitable[HttpResponse]] = echo,
    max_requests: int = 8,
    timeout_s: float = DEADLINE_S,
    refusals: list[tuple[str, int, float]] | None = None,
    **limits: Any,
) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    before = auto.AutoHTTPProtocol
    record = refusals.append if refusals is not None else len
    install_route(
        IngressRoute(
            handle,
            b"/v2/models/",
            lambda: limits.get("body_bytes", LIMIT),
            max_requests,
            1,
            timeout_s,
            buffer_bytes=limits.get("buffer_bytes", 10 * LIMIT),
            body_s=limits.get("body_s", DEADLINE_S),
            record_refusal=lambda *refusal: record(refusal),
        )
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(serve_app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            await asyncio.sleep(0)
        yield server, sock.getsockname()[1]
    finally:
        auto.AutoHTTPProtocol = before
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)


def encode(path: str, body: bytes = b"", *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    head = "".join(f"{line}\r\n" for line in ("host: x", f"content-length: {len(body)}", *lines))
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + body


async def exchange(
    port: int, *writes: bytes, expected: int = 1, no_body: bool = False
) -> list[tuple[int, bytes, bytes]]:
    """Status, head and body of ``expected`` responses to what is written over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in writes:
            writer.write(part)
            await writer.drain()
        return [await asyncio.wait_for(read_response(reader, no_body), DEADLINE_S) for _ in range(expected)]
    finally:
        writer.close()


async def read_response(reader: asyncio.StreamReader, no_body: bool = False) -> tuple[int, bytes, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return int(head.split()[1]), head, b"" if no_body else await reader.readexactly(length)


def test_route_answers_its_prefix_and_serve_the_rest() -> None:
    async def run() -> None:
        async with serving() as (_, port):
            ((status, head, body),) = await exchange(port, encode("/v2/models/a/infer?x=1", b"rows"))
            assert (status, body) == (200, b"POST /v2/models/a/infer rows")
            assert b"\r\nx-own: 1\r\n" in head
            assert b"\r\ndate: " in head
            ((_, _, body),) = await exchange(port, encode("/-/healthz", method="GET"))
            assert body == b"serve"

    asyncio.run(run())


def test_response_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    original = IngressProtocol.connection_made

    class Spy:
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

    monkeypatch.setattr(IngressProtocol, "connection_made", lambda self, transport: original(self, Spy(transport)))

    async def run() -> None:
        async with serving() as (_, port):
            await exchange(port, encode("/v2/models/a/infer", b"rows"))

    asyncio.run(run())
    assert len(writes) == 1
    assert writes[0].endswith(b"rows")


def test_connection_serves_several_requests() -> None:
    async def run() -> None:
        async with serving() as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for i in range(50):
                path = "/v2/models/a" if i % 3 else "/-/healthz"
                writer.write(encode(path, str(i).encode()))
                status, _, body = await asyncio.wait_for(read_response(reader), DEADLINE_S)
                assert (status, body) == (200, f"POST {path} {i}".encode() if i % 3 else b"serve")
            writer.close()
            assert server.server_state.total_requests == 50

    asyncio.run(run())


@pytest.mark.parametrize("cut", [1, 7, 40, 100])
def test_pipelined_requests_in_any_pieces_are_answered_in_order(cut: int) -> None:
    async def slower_first(request: HttpRequest) -> HttpResponse:
        body = await request.read_body(LIMIT)
        for _ in range(10 - int(body)):
            await asyncio.sleep(0)
        return HttpResponse(body)

    stream = b"".join(encode("/-/healthz") if i == 4 else encode("/v2/models/a", str(i).encode()) for i in range(8))

    async def run() -> None:
        async with serving(slower_first) as (_, port):
            parts = [stream[i : i + cut] for i in range(0, len(stream), cut)]
            responses = await exchange(port, *parts, expected=8)
            assert [body for _, _, body in responses] == [b"serve" if i == 4 else str(i).encode() for i in range(8)]

    asyncio.run(run())


def test_chunked_body_is_joined_and_refused_beyond_the_limit() -> None:
    head = b"POST /v2/models/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    big = b"%x\r\n" % (2 * LIMIT) + b"x" * 2 * LIMIT + b"\r\n0\r\n\r\n"

    async def run() -> None:
        async with serving() as (_, port):
            responses = await exchange(
                port, head, b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n", head + big, encode("/v2/models/b"), expected=3
            )
            assert [status for status, _, _ in responses] == [200, 413, 200]
            assert responses[0][2].endswith(b" abc")
            responses = await exchange(
                port, encode("/v2/models/a", b"x" * (LIMIT + 1)), encode("/v2/models/b"), expected=2
            )
            assert [status for status, _, _ in responses] == [413, 200]

    asyncio.run(run())


def test_head_has_no_body_and_expect_gets_100() -> None:
    async def run() -> None:
        async with serving() as (_, port):
            ((status, head, _),) = await exchange(port, encode("/v2/models/a", method="HEAD"), no_body=True)
            assert status == 200
            assert b"content-length: 18" in head
            expecting = encode("/v2/models/a", b"rows", "expect: 100-continue").removesuffix(b"rows")
            responses = await exchange(port, expecting, b"rows", expected=2)
            assert [status for status, _, _ in responses] == [100, 200]

    asyncio.run(run())


@pytest.mark.parametrize(("version", "line"), [("1.0", "x: y"), ("1.1", "connection: close")])
def test_connection_is_closed_on_request(version: str, line: str) -> None:
    async def run() -> None:
        async with serving() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(encode("/v2/models/a", b"", line, version=version))
            everything = await asyncio.wait_for(reader.read(), DEADLINE_S)
            assert b"connection: close\r\n" in everything
            writer.close()

    asyncio.run(run())


def test_garbage_gets_400() -> None:
    async def run() -> None:
        async with serving() as (_, port):
            ((status, _, _),) = await exchange(port, b"what is this\r\n\r\n")
            assert status == 400

    asyncio.run(run())


def test_requests_beyond_the_limit_get_503() -> None:
    go, full, in_progress, refusals = asyncio.Event(), asyncio.Event(), [], []

    async def waits(request: HttpRequest) -> HttpResponse:
        in_progress.append(request)
        if len(in_progress) == 2:
            full.set()
        await go.wait()
        return HttpResponse(b"late")

    async def run() -> None:
        async with serving(waits, max_requests=2, refusals=refusals) as (_, port):
            first = [asyncio.create_task(exchange(port, encode("/v2/models/a"))) for _ in range(2)]
            await asyncio.wait_for(full.wait(), DEADLINE_S)
            ((status, head, _),) = await exchange(port, encode("/v2/models/a"))
            assert status == 503
            assert b"retry-after: 1\r\n" in head
            assert refusals == [("POST", 503, 0.0)]
            go.set()
            assert [(await one)[0][0] for one in first] == [200, 200]

    asyncio.run(run())


def test_request_beyond_the_time_limit_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "CHECK_INTERVAL_S", 0.02)

    async def forever(request: HttpRequest) -> HttpResponse:
        if request.path.endswith("/quick"):
            return HttpResponse(b"quick")
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> None:
        refusals: list[tuple[str, int, float]] = []
        async with serving(forever, timeout_s=0.1, refusals=refusals) as (_, port):
            responses = await exchange(port, encode("/v2/models/slow"), encode("/v2/models/quick"), expected=2)
            assert [status for status, _, _ in responses] == [408, 200]
            ((method, status, seconds),) = refusals
            assert (method, status) == ("POST", 408)
            assert 0.1 <= seconds < DEADLINE_S

    asyncio.run(run())


def test_handler_that_raises_closes_only_its_connection() -> None:
    async def breaks(request: HttpRequest) -> HttpResponse:
        if request.path.endswith("/bad"):
            raise RuntimeError("no")
        return HttpResponse(b"good")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with serving(breaks) as (_, port):
            with pytest.raises(asyncio.IncompleteReadError):
                await exchange(port, encode("/v2/models/bad"))
            ((status, _, _),) = await exchange(port, encode("/v2/models/good"))
            assert status == 200

    asyncio.run(run())


def test_server_that_stops_finishes_requests_in_progress() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def waits(request: HttpRequest) -> HttpResponse:
        started.set()
        await go.wait()
        return HttpResponse(b"done")

    async def run() -> None:
        async with serving(waits) as (server, port):
            answer = asyncio.create_task(exchange(port, encode("/v2/models/a")))
            await asyncio.wait_for(started.wait(), DEADLINE_S)
            server.should_exit = True
            while server.servers and server.servers[0].is_serving():
                await asyncio.sleep(0)
            go.set()
            ((status, head, body),) = await answer
            assert (status, body) == (200, b"done")
            assert b"connection: close\r\n" in head

    asyncio.run(run())


def test_bodies_beyond_the_buffer_get_503_until_others_are_answered() -> None:
    refusals: list[tuple[str, int, float]] = []
    unfinished = encode("/v2/models/a", b"x" * 800)[:-1]

    async def run() -> None:
        async with serving(refusals=refusals, buffer_bytes=1000) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(unfinished)
            await writer.drain()
            # A caller that goes away in the middle of its body gives the room back.
            _, gone = await asyncio.open_connection("127.0.0.1", port)
            gone.write(encode("/v2/models/a", b"y" * 150)[:-1])
            await gone.drain()
            for status in (503, 503):
                ((answer, _, _),) = await exchange(port, encode("/v2/models/a", b"z" * 300))
                assert answer == status
            gone.close()
            writer.write(b"x")
            assert (await asyncio.wait_for(read_response(reader), DEADLINE_S))[0] == 200
            writer.close()
            while (await exchange(port, encode("/v2/models/a", b"z" * 950)))[0][0] != 200:
                """The other body is being released."""

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))
    assert refusals[:2] == [("POST", 503, 0.0)] * 2


def test_large_body_that_is_slow_gets_408() -> None:
    async def run() -> None:
        async with serving(body_bytes=10**6, buffer_bytes=10**6, body_s=0.05) as (_, port):
            head = encode("/v2/models/a", b"x" * 200_000)[:-100_001]
            ((status, _, answer),) = await exchange(port, head)
            assert (status, b"request.too_slow" in answer) == (408, True)

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))
