"""HTTP without a framework: requests, responses, and an ASGI application around one handler. No Ray.

A framework's request and response objects take longer than a small model does.
"""

from __future__ import annotations

import zlib
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


def accepts(method: str, allowed: str) -> bool:
    """Whether a path for method ``allowed`` answers ``method``: HEAD wherever GET."""
    return method == allowed or (method, allowed) == ("HEAD", "GET")


class HttpRequest(NamedTuple):
    """A request; ``raw_headers`` are those of ASGI: names in lower case, latin-1 bytes."""

    method: str
    path: str
    raw_headers: Mapping[bytes, bytes]
    receive: AsgiReceive

    def header(self, name: str) -> str | None:
        """Value of a header, by its lower-case name."""
        value = self.raw_headers.get(name.encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    async def read_body(self, limit: int) -> bytes:
        """Read the body.

        Args:
            limit: Most bytes, compressed and not.

        Raises:
            RequestError: 413 beyond ``limit``, 415 for another encoding than gzip, or 400 when the caller disconnects
                or the body is not gzip.
        """
        encoding = (self.header("content-encoding") or "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise RequestError("request.encoding_not_supported", field="body", encoding=encoding[:100])
        declared = self.header("content-length") or ""
        if declared.isdecimal() and int(declared) > limit:
            raise RequestError("request.body_too_large", field="body", limit=limit)
        chunks, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("request.disconnected", field="body")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise RequestError("request.body_too_large", field="body", limit=limit)
            more = message.get("more_body", False)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return _decompress(body, limit) if encoding == "gzip" else body


class HttpResponse(NamedTuple):
    """A response; header names are in lower case."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}
    content_type: str = JSON


class AsgiApp:
    """The ASGI application around ``handle``, for requests that come through Serve's own proxy."""

    def __init__(self, handle: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self._handle = handle

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] == "lifespan":
            await _complete_lifespan(receive, send)
        elif scope["type"] == "http":
            response = await self._handle(HttpRequest(scope["method"], scope["path"], dict(scope["headers"]), receive))
            await send({"type": "http.response.start", "status": response.status, "headers": _headers(response)})
            await send({"type": "http.response.body", "body": response.body})
        else:
            await send({"type": "websocket.close", "code": 1003})


def json_response(body: object, headers: Mapping[str, str] | None = None, status: int = 200) -> HttpResponse:
    """Encode a JSON response."""
    return HttpResponse(to_json(body), status, headers or {})


def error_response(error: RequestError) -> HttpResponse:
    """Encode an error: its sentence, stable code and field, under its status and headers."""
    body = {"error": str(error), "code": error.code} | ({"field": error.field} if error.field else {})
    return json_response(body, error.headers, error.status)


def _decompress(body: bytes, limit: int) -> bytes:
    """Decompress gzip up to ``limit``: a small body may stand for any number of bytes."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError("request.malformed_gzip", field="body", reason=str(error)) from error
    if len(content) > limit:
        raise RequestError("request.body_too_large", field="body", limit=limit)
    if not stream.eof or stream.unused_data:
        raise RequestError("request.malformed_gzip", field="body", reason="it does not end where the body ends")
    return content


async def _complete_lifespan(receive: AsgiReceive, send: AsgiSend) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def _headers(response: HttpResponse) -> list[tuple[bytes, bytes]]:
    length = str(len(response.body)).encode()
    headers = [(b"content-type", response.content_type.encode()), (b"content-length", length)]
    # A middleware of Serve adds the request's id.
    return headers + [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name != REQUEST_ID_HEADER
    ]
