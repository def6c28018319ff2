"""The application that answers for one model."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from cluster import actors, errors
from cluster.errors import RayloopError
from cluster.settings import load_settings
from deployments import serve_schema
from deployments.http_messages import AsgiApp
from deployments.inference.engine import Engine
from deployments.inference.order_lease import OrderLease
from deployments.inference.serving_state import ServingState
from deployments.inference.state_loader import close_stale, load_state
from deployments.ingress.grpc_address import bind_grpc
from deployments.ingress.grpc_servicer import GrpcServicer
from deployments.ingress.rest_handlers import RestHandlers, open_authenticator
from deployments.ingress.uvicorn_protocol import IngressRoute, install_route
from deployments.serve_schema import ServerConfig

_MODELS_PREFIX = b"/v2/models/"
_CLOSE_WITHIN_S = 8.0

_log = logging.getLogger(__name__)


@serve.deployment(name="ModelServer", max_ongoing_requests=serve_schema.MAX_ONGOING_REQUESTS)
@serve.ingress()
class ModelServer(GrpcServicer):
    """Life cycle of a replica that serves the model its ``user_config`` (ServerConfig) names.

    RestHandlers answer its HTTP requests, GrpcServicer its gRPC calls.
    """

    def __init__(self) -> None:
        # Read now: the first refused request would wait for them.
        errors.messages()
        self._settings = load_settings()
        if self._settings.door:
            bind_grpc(self._settings.replica_host)
        self._state: ServingState | None = None
        self._failure = ""
        self._lease = OrderLease(actors.ask_head)
        self._engine = Engine(self._lease.held)
        self._authenticator = open_authenticator(self._settings)
        self._reconfiguring = asyncio.Lock()
        self._handlers = RestHandlers(self._engine, self._authenticator, self._serving_state)
        self._under_way = install_route(
            IngressRoute(
                handle=self._handlers.handle,
                prefix=_MODELS_PREFIX,
                body_bytes=lambda: self._serving_state().config.limits.body_bytes,
                max_requests=serve_schema.MAX_ONGOING_REQUESTS + serve_schema.MAX_QUEUED_REQUESTS,
                retry_after_s=serve_schema.RETRY_AFTER_S,
                timeout_s=serve_schema.REQUEST_TIMEOUT_S,
                record_refusal=lambda *refusal: self._engine.telemetry.record_response(*refusal),
            )
        )

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return AsgiApp(self._handlers.handle)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load what is new while the old is still served, then swap.

        When the new version fails to load, the old one stays and ``state`` says why: Serve would respond to an
        exception by killing the replica. Without an old one, the exception fails the deployment.
        """
        async with self._reconfiguring:
            before = self._state
            try:
                config = ServerConfig.from_stored(user_config)
                if before is not None and config.writer < before.config.writer:
                    # It was cut off, and replaced; the newer one restores what this replica serves.
                    _log.warning("ignoring a configuration from a replaced writer")
                    return
                self._state = await self._load(config)
                self._failure = ""
                if before is not None:
                    close_stale(before, self._state)
                else:
                    # Objects loaded so far stay loaded; the garbage collector need not visit it while requests wait.
                    gc.collect()
                    gc.freeze()
            except (RayloopError, OSError, ValidationError) as error:
                if self._state is None:
                    raise
                self._failure = str(error)
                _log.error("keeping v%s: %s", self._state.champion.version, error)

    async def state(self) -> dict[str, str]:
        """The version served, the split in effect, and why the newest configuration failed to load, if it did."""
        state = self._serving_state()
        return {
            "replica": serve.get_replica_context().replica_id.unique_id,
            "version": state.champion.version,
            "trial": state.config.split.model_dump_json() if state.config.split else "",
            "failure": self._failure,
        }

    def _serving_state(self) -> ServingState:
        assert self._state is not None
        return self._state

    async def _load(self, config: ServerConfig) -> ServingState:
        state = await load_state(config, self._settings, self._state)
        await asyncio.to_thread(self._engine.start_telemetry, config.champion.model, self._under_way)
        return state

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        engine, authenticator = getattr(self, "_engine", None), getattr(self, "_authenticator", None)
        if (lease := getattr(self, "_lease", None)) is not None:
            lease.close()
        if engine is not None:
            engine.close(_CLOSE_WITHIN_S)
        if authenticator is not None:
            authenticator.close()


def build(args: dict[str, Any]) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return ModelServer.bind()  # type: ignore[attr-defined]
