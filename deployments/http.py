"""HTTP answers: JSON bodies, error bodies, and request bodies within their limit."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from cluster.errors import RequestError

REQUEST_ID = "x-request-id"
VERSION = "x-rayloop-version"
VARIANT = "x-rayloop-variant"
ROUTING_KEY = "x-rayloop-key"


def json_answer(body: object, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """A JSON response; ``body`` is a value, or JSON bytes."""
    content = body if isinstance(body, bytes) else to_json(body)
    return Response(content, status, dict(headers or {}), "application/json")


def error_answer(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """``{"error": …, "field": …}`` with the error's status."""
    body = {"error": str(error)} | ({"field": error.field} if error.field else {})
    return json_answer(body, headers, error.status)


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises RequestError with status 413 beyond ``limit`` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_long(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_long(limit)
    return bytes(body)


def _too_long(limit: int) -> RequestError:
    what = f"the body is longer than {limit} bytes"
    return RequestError(what, field="body", status=413, todo="send fewer rows at once")
