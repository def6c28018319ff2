"""The application at /v2: health, and a clear answer for models and paths that do not exist."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ray import serve
from ray.serve import Application
from ray.serve.schema import ApplicationStatus

from cluster.errors import RequestError
from cluster.settings import load_settings
from deployments.http_messages import Asgi, Call, Reply, error_reply, json_reply
from deployments.protocol.open_inference import PLATFORM

if TYPE_CHECKING:
    from deployments.auth.authenticator import Gate

ROUTE = "/v2"
APP = "rayloop-front"
_SERVER = {"name": "rayloop", "extensions": ["binary_tensor_data"], "version": "2", "platform": PLATFORM}


@serve.deployment(name="Front", max_ongoing_requests=256)
@serve.ingress()
class Front:
    """Answers what no model's application does. Where callers are checked, a stranger does not learn which models there are."""

    def __init__(self) -> None:
        self._gate: Gate | None = None
        settings = load_settings()
        if settings.access:
            from deployments.auth.authenticator import open_gate

            self._gate = open_gate(settings)

    def __serve_build_asgi_app__(self) -> Asgi:
        return Asgi(self._reply)

    async def _reply(self, call: Call) -> Reply:
        path = call.path.removeprefix(ROUTE).rstrip("/")
        if path not in ("", "/health/live", "/health/ready"):
            return error_reply(await self._refusal(call, path))
        if call.method != "GET":
            return error_reply(RequestError("use GET", status=405, headers={"allow": "GET"}))
        if path == "/health/ready":
            ready = await asyncio.to_thread(_ready)
            return json_reply({"ready": ready}, status=200 if ready else 503)
        return json_reply({"live": True} if path else _SERVER)

    async def _refusal(self, call: Call, path: str) -> RequestError:
        if self._gate is not None:
            try:
                await self._gate.admit(call.raw_headers.items(), _model(path), "read")
            except RequestError as error:
                return error
        return RequestError(_unknown(path), status=404)


def _ready() -> bool:
    """Whether any model answers; whether a certain one does, its own path tells."""
    applications = serve.status().applications
    return any(app.status == ApplicationStatus.RUNNING for name, app in applications.items() if name != APP)


def _model(path: str) -> str:
    """The model that a path names; empty when it names none."""
    parts = path.split("/")
    return parts[2] if len(parts) > 2 and parts[1] == "models" else ""


def _unknown(path: str) -> str:
    model = _model(path)
    return f"no model {model[:100]!r} is deployed" if model else f"no such path: {ROUTE}{path[:100]}"


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Front.bind()  # type: ignore[attr-defined, no-any-return]
