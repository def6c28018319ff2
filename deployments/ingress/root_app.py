"""The application at /v2: health, and a clear answer for models and paths that do not exist."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ray import serve
from ray.serve import Application
from ray.serve.schema import ApplicationStatus

from cluster.errors import RequestError
from cluster.settings import load_settings
from deployments.http_messages import AsgiApp, HttpRequest, HttpResponse, error_response, json_response
from deployments.protocol.open_inference import PLATFORM

if TYPE_CHECKING:
    from deployments.auth.authenticator import Authenticator

ROOT_ROUTE = "/v2"
ROOT_APP = "rayloop-front"
_SERVER = {"name": "rayloop", "extensions": ["binary_tensor_data"], "version": "2", "platform": PLATFORM}


@serve.deployment(name="Front", max_ongoing_requests=256)
@serve.ingress()
class RootApp:
    """Answers what no model's application does. Where callers are checked, a stranger does not learn which models there are."""

    def __init__(self) -> None:
        self._gate: Authenticator | None = None
        settings = load_settings()
        if settings.access:
            from deployments.auth.authenticator import open_authenticator

            self._gate = open_authenticator(settings)

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return AsgiApp(self._reply)

    async def _reply(self, call: HttpRequest) -> HttpResponse:
        path = call.path.removeprefix(ROOT_ROUTE).rstrip("/")
        if path not in ("", "/health/live", "/health/ready"):
            return error_response(await self._refusal(call, path))
        if call.method != "GET":
            return error_response(RequestError("use GET", status=405, headers={"allow": "GET"}))
        if path == "/health/ready":
            ready = await asyncio.to_thread(_ready)
            return json_response({"ready": ready}, status=200 if ready else 503)
        return json_response({"live": True} if path else _SERVER)

    async def _refusal(self, call: HttpRequest, path: str) -> RequestError:
        if self._gate is not None:
            try:
                await self._gate.admit(call.raw_headers.items(), _model(path), "read")
            except RequestError as error:
                return error
        return RequestError(_unknown(path), status=404)


def _ready() -> bool:
    """Whether any model answers; whether a certain one does, its own path tells."""
    applications = serve.status().applications
    return any(app.status == ApplicationStatus.RUNNING for name, app in applications.items() if name != ROOT_APP)


def _model(path: str) -> str:
    """The model that a path names; empty when it names none."""
    parts = path.split("/")
    return parts[2] if len(parts) > 2 and parts[1] == "models" else ""


def _unknown(path: str) -> str:
    model = _model(path)
    return f"no model {model[:100]!r} is deployed" if model else f"no such path: {ROOT_ROUTE}{path[:100]}"


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return RootApp.bind()  # type: ignore[attr-defined, no-any-return]
