"""Requests and responses without a framework, and the ASGI application around a handler."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest

from cluster.errors import RequestError
from deployments.http_messages import AsgiApp, HttpRequest, HttpResponse, error_response, json_response
from tests.factories.errors import raises


def read_body(chunks: list[bytes], limit: int, headers: dict[bytes, bytes] | None = None) -> bytes:
    messages = [
        {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)
    ] or [{"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return asyncio.run(HttpRequest("POST", "/", headers or {}, receive).read_body(limit))


@pytest.mark.parametrize("chunks", [[b"abcd"], [b"ab", b"", b"cd"]])
def test_read_body_joins_the_chunks_up_to_the_limit(chunks: list[bytes]) -> None:
    assert read_body(chunks, 4) == b"abcd"
    with raises(RequestError, "request.body_too_large", limit=3) as caught:
        read_body(chunks, 3)
    assert caught.value.status == 413


def test_read_body_with_a_declared_length_beyond_the_limit_reads_nothing() -> None:
    with raises(RequestError, "request.body_too_large", limit=4):
        read_body([], 4, {b"content-length": b"5"})
    assert read_body([b"abcd"], 4, {b"content-length": b"4"}) == b"abcd"


def test_read_body_of_a_caller_that_disconnects_is_refused() -> None:
    with raises(RequestError, "request.disconnected"):
        read_body([], 4)


async def receive_nothing() -> dict[str, Any]:
    raise AssertionError


def test_header_is_found_by_its_lower_case_name() -> None:
    request = HttpRequest("GET", "/", {b"x-rayloop-key": "café".encode("latin-1")}, receive_nothing)
    assert (request.header("x-rayloop-key"), request.header("other")) == ("café", None)


def sent(app: AsgiApp, scope: dict[str, Any], *events: str) -> list[dict[str, Any]]:
    messages, waiting = [], list(events)

    async def receive() -> dict[str, Any]:
        return {"type": waiting.pop(0)}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app(scope, receive, send))
    return messages


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.path.encode(), headers={"x-request-id": "q", "x-rayloop-version": "7"})


def test_asgi_app_sends_the_response_with_its_headers() -> None:
    start, body = sent(AsgiApp(echo), {"type": "http", "method": "GET", "path": "/v2", "headers": []})
    assert (start["status"], body["body"]) == (200, b"/v2")
    assert start["headers"] == [
        (b"content-type", b"application/json"),
        (b"content-length", b"3"),
        (b"x-rayloop-version", b"7"),
    ]


def test_asgi_app_completes_the_lifespan_and_refuses_websockets() -> None:
    app = AsgiApp(echo)
    assert [m["type"] for m in sent(app, {"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert sent(app, {"type": "websocket"}) == [{"type": "websocket.close", "code": 1003}]


def test_responses_carry_status_and_json() -> None:
    assert json_response({"ready": True}) == HttpResponse(b'{"ready":true}', 200, {}, "application/json")
    refused = error_response(RequestError("request.body_too_large", field="body", limit=1))
    assert (refused.status, b'"field":"body"' in refused.body) == (413, True)


GZIP = {b"content-encoding": b"gzip"}


def test_read_body_decompresses_gzip_up_to_the_limit() -> None:
    packed = gzip.compress(b"x" * 1000)
    assert read_body([packed[:7], packed[7:]], 1000, GZIP) == b"x" * 1000
    with raises(RequestError, "request.body_too_large"):
        read_body([packed], 999, GZIP)
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with raises(RequestError, "request.body_too_large"):
        read_body([bomb], 100_000, GZIP)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [b"plain", gzip.compress(b"abc")[:-3], gzip.compress(b"abc") + b"more"],
    ids=["plain", "cut_short", "followed_by_more"],
)
def test_read_body_refuses_what_is_not_gzip(body: bytes) -> None:
    with raises(RequestError, "request.malformed_gzip"):
        read_body([body], 1000, GZIP)


def test_read_body_refuses_another_encoding() -> None:
    with raises(RequestError, "request.encoding_not_supported"):
        read_body([b"x"], 1000, {b"content-encoding": b"br"})
