"""The application at /v2: health, and a clear answer for models and paths that do not exist."""

from __future__ import annotations

import asyncio

from ray import serve
from ray.serve import Application
from ray.serve.schema import ApplicationStatus
from starlette.requests import Request
from starlette.responses import Response

from cluster.errors import RequestError
from deployments.http import error_answer, json_answer
from deployments.protocol import PLATFORM

ROUTE = "/v2"
APP = "rayloop-front"
_SERVER = {"name": "rayloop", "extensions": [], "platform": PLATFORM}


@serve.deployment(name="Front", max_ongoing_requests=256)
class Front:
    """Answers what no model's application does."""

    async def __call__(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(ROUTE).rstrip("/")
        if path not in ("", "/health/live", "/health/ready"):
            return error_answer(RequestError(_unknown(path), status=404))
        if request.method != "GET":
            return error_answer(RequestError("use GET", status=405), {"allow": "GET"})
        if path == "/health/ready":
            ready = await asyncio.to_thread(_ready)
            return json_answer({"ready": ready}, status=200 if ready else 503)
        return json_answer({"live": True} if path else _SERVER)


def _ready() -> bool:
    """Whether any model answers; whether a certain one does, its own path tells."""
    applications = serve.status().applications
    return any(app.status == ApplicationStatus.RUNNING for name, app in applications.items() if name != APP)


def _unknown(path: str) -> str:
    parts = path.split("/")
    if len(parts) > 2 and parts[1] == "models":
        return f"no model {parts[2][:100]!r} is deployed"
    return f"no such path: {ROUTE}{path[:100]}"


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Front.bind()  # type: ignore[attr-defined, no-any-return]
