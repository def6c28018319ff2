"""HTTP without a framework: an ASGI application of one function from call to reply. No Ray.

A framework's request and response objects cost more than a small model takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from pydantic_core import to_json

from cluster.errors import RequestError

REQUEST_ID_HEADER = "x-request-id"
VERSION_HEADER = "x-rayloop-version"
VARIANT_HEADER = "x-rayloop-variant"
ROUTING_KEY_HEADER = "x-rayloop-key"

JSON = "application/json"
BINARY = "application/octet-stream"

# https://asgi.readthedocs.io/en/latest/specs/www.html
AsgiScope = dict[str, Any]
AsgiReceive = Callable[[], Awaitable[dict[str, Any]]]
AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


class HttpRequest(NamedTuple):
    """A request. ``raw_headers`` as ASGI gives them: names in lower case, latin-1 bytes."""

    method: str
    path: str
    raw_headers: Mapping[bytes, bytes]
    receive: AsgiReceive

    def header(self, name: str) -> str | None:
        value = self.raw_headers.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    async def read_body(self, limit: int) -> bytes:
        """The body. Raises RequestError with status 413 beyond ``limit`` bytes."""
        declared = self.header("content-length") or ""
        if declared.isdecimal() and int(declared) > limit:
            raise _too_long(limit)
        chunks, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the caller went away before the body was complete", field="body", status=400)
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise _too_long(limit)
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class HttpResponse(NamedTuple):
    """An answer; header names in lower case."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}
    content_type: str = JSON


class AsgiApp:
    """The ASGI application of ``handle``: the way of requests that come through Serve's own proxy."""

    def __init__(self, handle: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self._handle = handle

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] == "lifespan":
            await _live_through(receive, send)
        elif scope["type"] == "http":
            reply = await self._handle(HttpRequest(scope["method"], scope["path"], dict(scope["headers"]), receive))
            await send({"type": "http.response.start", "status": reply.status, "headers": _headers(reply)})
            await send({"type": "http.response.body", "body": reply.body})
        else:
            await send({"type": "websocket.close", "code": 1003})


def json_response(body: object, headers: Mapping[str, str] | None = None, status: int = 200) -> HttpResponse:
    """A JSON reply."""
    return HttpResponse(to_json(body), status, headers or {})


def error_response(error: RequestError) -> HttpResponse:
    """``{"error": …, "field": …}`` with the error's status and headers."""
    body = {"error": str(error)} | ({"field": error.field} if error.field else {})
    return json_response(body, error.headers, error.status)


async def _live_through(receive: AsgiReceive, send: AsgiSend) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def _headers(reply: HttpResponse) -> list[tuple[bytes, bytes]]:
    # The request's id is put on by a middleware of Serve.
    told = [(name, value) for name, value in reply.headers.items() if name != REQUEST_ID_HEADER]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told]
    length = str(len(reply.body)).encode()
    return [(b"content-type", reply.content_type.encode()), (b"content-length", length), *headers]


def _too_long(limit: int) -> RequestError:
    what = f"the body is longer than {limit} bytes"
    return RequestError(what, field="body", status=413, todo="send fewer rows at once")
