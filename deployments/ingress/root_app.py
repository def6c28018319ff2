"""The application at /v2: health, and clear errors for models and paths that do not exist."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import ApplicationStatus

from cluster.errors import RequestError
from cluster.settings import load_settings
from deployments.http_messages import AsgiApp, HttpRequest, HttpResponse, accepts, error_response, json_response
from deployments.ingress.grpc_address import bind_grpc
from deployments.ingress.rest_handlers import method_not_allowed, open_authenticator
from deployments.protocol.open_inference import PLATFORM
from deployments.serve_schema import ROOT_APP

ROOT_ROUTE = "/v2"
_PATHS = ("", "/health/live", "/health/ready")
_SERVER = {"name": "rayloop", "extensions": ["binary_tensor_data"], "version": "2", "platform": PLATFORM}


@serve.deployment(name="Front", max_ongoing_requests=256)
@serve.ingress()
class RootApp:
    """Answers the paths outside of models. Without a valid credential, a caller does not learn which models exist."""

    def __init__(self) -> None:
        settings = load_settings()
        if settings.door:
            bind_grpc(settings.replica_host)
        self._authenticator = open_authenticator(settings)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Accept new moves to a second cluster, which only the doors act on."""

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return AsgiApp(self._respond)

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        path = request.path.removeprefix(ROOT_ROUTE).rstrip("/")
        if path not in _PATHS:
            return error_response(await self._refusal(request, path))
        if not accepts(request.method, "GET"):
            return error_response(method_not_allowed("GET"))
        if path == "/health/ready":
            ready = await asyncio.to_thread(_ready)
            return json_response({"ready": ready}, status=200 if ready else 503)
        return json_response({"live": True} if path else _SERVER)

    async def _refusal(self, request: HttpRequest, path: str) -> RequestError:
        if self._authenticator is not None:
            try:
                await self._authenticator.admit(request.raw_headers.items(), _model(path), "read")
            except RequestError as error:
                return error
        if model := _model(path):
            return RequestError("request.model_not_found", model=model[:100])
        paths = [f"{ROOT_ROUTE}{each}" for each in _PATHS]
        return RequestError("request.path_not_found", path=f"{ROOT_ROUTE}{path}"[:100], paths=paths)


def _ready() -> bool:
    """Whether any model answers; each model has its own path for its readiness."""
    applications = serve.status().applications
    return any(app.status == ApplicationStatus.RUNNING for name, app in applications.items() if name != ROOT_APP)


def _model(path: str) -> str:
    """Name of the model in a path, or an empty string."""
    parts = path.split("/")
    return parts[2] if len(parts) > 2 and parts[1] == "models" else ""


def build(args: dict[str, Any]) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return RootApp.bind()  # type: ignore[attr-defined]
