"""The application that answers for one model: its doors, and what is behind them."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from cluster.errors import RayloopError, RequestError
from cluster.names import CHAMPION
from cluster.settings import load_settings
from deployments.auth.credentials import REQUIRED_SCOPES
from deployments.http_messages import (
    BINARY,
    JSON,
    REQUEST_ID_HEADER,
    ROUTING_KEY_HEADER,
    VARIANT_HEADER,
    VERSION_HEADER,
    AsgiApp,
    HttpRequest,
    HttpResponse,
    error_response,
    json_response,
)
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.dispatch import ServingState
from deployments.inference.engine import Engine, InferenceResult
from deployments.inference.predictor import Scorer
from deployments.ingress.grpc_servicer import GrpcServicer
from deployments.ingress.uvicorn_protocol import IngressRoute, install_route
from deployments.protocol.binary_tensors import JSON_LENGTH_HEADER
from deployments.protocol.feedback import parse_feedback
from deployments.protocol.mlflow_invocations import encode_invocation_response, parse_invocation
from deployments.protocol.open_inference import (
    InferRequestParser,
    describe_model,
    encode_infer_response,
    parse_json_object,
    validate_request_id,
)
from deployments.protocol.openapi import build_openapi
from deployments.protocol.request_rows import RequestRows
from deployments.serve_schema import (
    MAX_ONGOING_REQUESTS,
    MAX_QUEUED_REQUESTS,
    REQUEST_TIMEOUT_S,
    RETRY_AFTER_S,
    ServerConfig,
    challenger_app_name,
)

if TYPE_CHECKING:
    from deployments.auth.authenticator import Authenticator

_UNDER_WAY = MAX_ONGOING_REQUESTS + MAX_QUEUED_REQUESTS
_MODELS = b"/v2/models/"
_CLOSE_WITHIN_S = 8.0
_WARM_UP_S = 5.0

_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    """A call on its way through a handler."""

    live: ServingState
    call: HttpRequest
    id: str
    forced: str | None


_Handler = Callable[[_Asked], Awaitable[HttpResponse]]


@serve.deployment(name="ModelServer", max_ongoing_requests=MAX_ONGOING_REQUESTS)
@serve.ingress()
class ModelServer(GrpcServicer):
    """Open Inference Protocol v2, /invocations and /feedback of the model its ``user_config`` (ServerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._live: ServingState | None = None
        self._failure = ""
        self._engine = Engine()
        self._gate = self._opened_gate()
        self._reconfiguring = asyncio.Lock()
        self._routes: dict[str, tuple[str, _Handler]] = {
            "": ("GET", self._metadata),
            "/ready": ("GET", self._ready),
            "/openapi.json": ("GET", self._openapi),
            "/infer": ("POST", self._infer),
            "/invocations": ("POST", self._invocations),
            "/feedback": ("POST", self._feedback),
        }
        self._under_way = install_route(
            IngressRoute(self._reply, _MODELS, self._body_bytes, _UNDER_WAY, RETRY_AFTER_S, REQUEST_TIMEOUT_S)
        )

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return AsgiApp(self._reply)

    async def reconfigure(self, user_config: dict) -> None:
        """Load what is new beside what is served, warm it up, then swap.

        When the new version does not load, the old one goes on and ``state`` says why: Serve would answer an
        exception by killing the replica. Without an old one the exception fails the deployment.
        """
        async with self._reconfiguring:
            before = self._live
            try:
                self._live = await self._loaded(ServerConfig.from_stored(user_config))
                self._failure = ""
                if before is not None:
                    _let_go(before, self._live)
                else:
                    # What is loaded by now stays: the collector need not go through it while requests wait.
                    gc.collect()
                    gc.freeze()
            except (RayloopError, OSError, ValidationError) as error:
                if self._live is None:
                    raise
                self._failure = str(error)
                _log.error("v%s stays: %s", self._live.champion.version, error)

    async def state(self) -> dict[str, str]:
        """Version served, rollout and share in effect, and why the newest configuration is not, if so."""
        assert self._live is not None
        trial = self._live.config.trial
        return {
            "replica": serve.get_replica_context().replica_id.unique_id,
            "version": self._live.champion.version,
            "trial": trial.model_dump_json() if trial else "",
            "failure": self._failure,
        }

    async def _reply(self, call: HttpRequest) -> HttpResponse:
        assert self._live is not None
        live, started = self._live, time.perf_counter()
        request_id = call.header(REQUEST_ID_HEADER) or uuid4().hex
        try:
            validate_request_id(request_id, REQUEST_ID_HEADER)
            tail, version = self._tail(call.path, live.config.champion.model)
            method, handler = self._routes[tail]
            if self._gate is not None and (scope := REQUIRED_SCOPES[tail]) is not None:
                await self._gate.admit(call.raw_headers.items(), live.config.champion.model, scope)
            if call.method != method:
                raise RequestError(f"use {method}", status=405, headers={"allow": method})
            reply = await handler(_Asked(live, call, request_id, live.forced(version, call.header(VARIANT_HEADER))))
        except RequestError as error:
            reply = error_response(error)
        except Exception as error:
            _log.exception("request failed")
            reply = json_response({"error": f"the model failed: {type(error).__name__}"}, status=500)
        self._engine.reporting.replied(call.method, reply.status, time.perf_counter() - started)
        told = {REQUEST_ID_HEADER: request_id, VERSION_HEADER: live.champion.version, VARIANT_HEADER: CHAMPION}
        return reply._replace(headers={**told, **reply.headers})

    def _body_bytes(self) -> int:
        assert self._live is not None
        return self._live.config.limits.body_bytes

    def _tail(self, path: str, name: str) -> tuple[str, str | None]:
        """The path within the model's, and the version that it names, if any."""
        tail = path.partition(f"/models/{name}")[2].rstrip("/")
        version = None
        if tail.startswith("/versions/"):
            version, slash, rest = tail.removeprefix("/versions/").partition("/")
            tail = slash + rest
        if tail not in self._routes:
            known = ", ".join(route for route in self._routes if route)
            raise RequestError(f"no such path: {path[:100]}", status=404, todo=f"there are {known}")
        return tail, version

    def _opened_gate(self) -> Authenticator | None:
        if not self._settings.access:
            return None
        # What it takes to check tokens and count calls is not loaded where access is open.
        from deployments.auth.authenticator import open_authenticator

        return open_authenticator(self._settings)

    async def _metadata(self, asked: _Asked) -> HttpResponse:
        config, manifest = asked.live.config, asked.live.champion.manifest
        return json_response(
            describe_model(config.champion.model, list(asked.live.versions), manifest.features, manifest.task)
        )

    async def _ready(self, asked: _Asked) -> HttpResponse:
        return json_response({"name": asked.live.config.champion.model, "ready": True})

    async def _openapi(self, asked: _Asked) -> HttpResponse:
        live, manifest = asked.live, asked.live.champion.manifest
        name, version = live.config.champion.model, live.champion.version
        access = self._gate is not None
        return json_response(
            build_openapi(manifest.features, manifest.task, name, version, live.config.limits, access=access)
        )

    async def _infer(self, asked: _Asked) -> HttpResponse:
        live, limits = asked.live, asked.live.config.limits
        body = await asked.call.read_body(limits.body_bytes)
        request = live.form.read(body, asked.call.header(JSON_LENGTH_HEADER), asked.id)
        outcome = await self._outcome(asked, request.id, request.rows)
        content = encode_infer_response(
            request,
            live.config.champion.model,
            outcome.version,
            outcome.variant,
            live.champion.manifest.task,
            outcome.scores,
        )
        headers = _headers(outcome)
        if content.header_length is None:
            return HttpResponse(content.body, 200, headers, JSON)
        return HttpResponse(content.body, 200, headers | {JSON_LENGTH_HEADER: str(content.header_length)}, BINARY)

    async def _invocations(self, asked: _Asked) -> HttpResponse:
        manifest, limits = asked.live.champion.manifest, asked.live.config.limits
        body = parse_json_object(await asked.call.read_body(limits.body_bytes))
        outcome = await self._outcome(asked, asked.id, parse_invocation(body, manifest.features, limits.rows))
        return HttpResponse(
            encode_invocation_response(outcome.version, manifest.task, outcome.scores), 200, _headers(outcome)
        )

    async def _feedback(self, asked: _Asked) -> HttpResponse:
        limits = asked.live.config.limits
        body = parse_json_object(await asked.call.read_body(limits.body_bytes))
        rows = parse_feedback(body, asked.live.champion.manifest.task, limits.rows)
        self._engine.reporting.labelled(rows)
        return json_response({"accepted": rows.num_rows})

    async def _outcome(self, asked: _Asked, request: str, rows: RequestRows) -> InferenceResult:
        return await self._engine.answer(asked.live, request, rows, asked.call.header(ROUTING_KEY_HEADER), asked.forced)

    async def _loaded(self, config: ServerConfig) -> ServingState:
        before = self._live
        if before is not None and before.config.champion == config.champion:
            champion = before.champion
        else:
            champion = await asyncio.to_thread(Scorer, config.champion, self._settings)
            await asyncio.to_thread(self._engine.open, config.champion.model, self._under_way)
        form = InferRequestParser(champion.manifest.features, champion.manifest.task, config.limits.rows)
        return ServingState(config, champion, form, await self._lines(config))

    async def _lines(self, config: ServerConfig) -> dict[str, ChallengerClient]:
        """A line to each challenger on trial, by version; those that there are already stay."""
        if config.trial is None:
            return {}
        before = self._live.config.trial if self._live is not None else None
        same = self._live is not None and before is not None and before.rollout == config.trial.rollout
        known = self._live.challengers if self._live is not None and same else {}
        versions = [challenger.version for challenger in config.trial.challengers]
        names = [challenger_app_name(config.champion.model, config.trial.rollout, version) for version in versions]
        new = {v: self._line(name) for v, name in zip(versions, names, strict=True) if v not in known}
        made = dict(zip(new, await asyncio.gather(*new.values()), strict=True))
        return {version: made.get(version) or known[version] for version in versions}

    async def _line(self, app: str) -> ChallengerClient:
        line = ChallengerClient(serve.get_deployment_handle("Challenger", app), ray.get_runtime_context().get_node_id())
        # A handle finds its replicas with the first call, which should not be a caller's.
        try:
            await asyncio.wait_for(line.find(), _WARM_UP_S)
        except Exception:
            _log.exception("the challenger does not answer yet; its failures count against it")
        return line

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        engine, gate = getattr(self, "_engine", None), getattr(self, "_gate", None)
        if engine is not None:
            engine.close(_CLOSE_WITHIN_S)
        if gate is not None:
            gate.close()


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return ModelServer.bind()  # type: ignore[attr-defined, no-any-return]


def _let_go(before: ServingState, now: ServingState) -> None:
    """Close the lines to challengers that are asked no more."""
    for line in set(before.challengers.values()) - set(now.challengers.values()):
        line.close()


def _headers(outcome: InferenceResult) -> dict[str, str]:
    return {VERSION_HEADER: outcome.version, VARIANT_HEADER: outcome.variant}
