"""The REST paths of a model: Open Inference Protocol v2, MLflow's /invocations, /explain, and /feedback."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from cluster.errors import RequestError
from cluster.names import CHAMPION
from cluster.settings import Settings
from deployments.auth.credentials import REQUIRED_SCOPES
from deployments.http_messages import (
    BINARY,
    REQUEST_ID_HEADER,
    ROUTING_KEY_HEADER,
    VARIANT_HEADER,
    VERSION_HEADER,
    HttpRequest,
    HttpResponse,
    accepts,
    error_response,
    json_response,
)
from deployments.inference.engine import Engine, ExplainOptions, InferenceResult
from deployments.inference.serving_state import ServingState
from deployments.protocol.binary_tensors import JSON_LENGTH_HEADER
from deployments.protocol.explain_requests import (
    STORE,
    ExplainOption,
    encode_explain_response,
    explain_option,
    is_tensor_request,
)
from deployments.protocol.feedback import parse_feedback
from deployments.protocol.mlflow_invocations import encode_invocation_response, parse_invocation
from deployments.protocol.open_inference import (
    describe_model,
    encode_infer_response,
    parse_json_object,
    validate_request_id,
)
from deployments.protocol.openapi import build_openapi
from deployments.protocol.request_rows import RequestRows

if TYPE_CHECKING:
    from deployments.auth.authenticator import Authenticator

_log = logging.getLogger(__name__)


class _Call(NamedTuple):
    """A request on its way through a handler."""

    state: ServingState
    request: HttpRequest
    id: str
    pinned: str | None


_Handler = Callable[[_Call], Awaitable[HttpResponse]]


class RestHandlers:
    """Answers the HTTP requests of one model.

    Args:
        engine: Scores the requests.
        authenticator: Checks callers; None when access is open.
        get_state: Returns what is served now.
    """

    def __init__(
        self, engine: Engine, authenticator: Authenticator | None, get_state: Callable[[], ServingState]
    ) -> None:
        self._engine, self._authenticator, self._get_state = engine, authenticator, get_state
        self._routes: dict[str, tuple[str, _Handler]] = {
            "": ("GET", self._metadata),
            "/ready": ("GET", self._ready),
            "/openapi.json": ("GET", self._openapi),
            "/infer": ("POST", self._infer),
            "/invocations": ("POST", self._invocations),
            "/explain": ("POST", self._explain),
            "/feedback": ("POST", self._feedback),
        }

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer any request; every failure becomes an error response."""
        state, started = self._get_state(), time.perf_counter()
        model = state.config.champion.model
        id = request.header(REQUEST_ID_HEADER) or uuid4().hex
        try:
            validate_request_id(id, REQUEST_ID_HEADER)
            path, version = self._resolve_path(request.path, model)
            method, handler = self._routes[path]
            if self._authenticator is not None and (scope := REQUIRED_SCOPES[path]) is not None:
                await self._authenticator.admit(request.raw_headers.items(), model, scope)
            if not accepts(request.method, method):
                raise method_not_allowed(method)
            pinned = state.pinned_version(version, request.header(VARIANT_HEADER))
            response = await handler(_Call(state, request, id, pinned))
        except RequestError as error:
            response = error_response(error)
        except Exception as error:
            _log.exception("request failed")
            response = error_response(RequestError("request.model_failed", error=type(error).__name__))
        self._engine.telemetry.record_response(request.method, response.status, time.perf_counter() - started)
        common = {REQUEST_ID_HEADER: id, VERSION_HEADER: state.champion.version, VARIANT_HEADER: CHAMPION}
        return response._replace(headers={**common, **response.headers})

    def _resolve_path(self, path: str, model: str) -> tuple[str, str | None]:
        """The path within the model's, and the version that it names, if any."""
        tail = path.partition(f"/models/{model}")[2].rstrip("/")
        version = None
        if tail.startswith("/versions/"):
            version, slash, rest = tail.removeprefix("/versions/").partition("/")
            tail = slash + rest
        if tail not in self._routes:
            raise RequestError("request.path_not_found", path=path[:100], paths=[each for each in self._routes if each])
        return tail, version

    async def _metadata(self, call: _Call) -> HttpResponse:
        model, manifest = call.state.config.champion.model, call.state.champion.manifest
        return json_response(describe_model(model, list(call.state.versions), manifest.features, manifest.task))

    async def _ready(self, call: _Call) -> HttpResponse:
        return json_response({"name": call.state.config.champion.model, "ready": True})

    async def _openapi(self, call: _Call) -> HttpResponse:
        config, champion = call.state.config, call.state.champion
        features, task = champion.manifest.features, champion.manifest.task
        access = self._authenticator is not None
        return json_response(
            build_openapi(features, task, config.champion.model, champion.version, config.limits, access=access)
        )

    async def _infer(self, call: _Call) -> HttpResponse:
        state = call.state
        body = await call.request.read_body(state.config.limits.body_bytes)
        request = state.parser.parse_bytes(body, call.request.header(JSON_LENGTH_HEADER), call.id)
        result = await self._score(call, request.id, request.rows, request.explain)
        model, task = state.config.champion.model, state.champion.manifest.task
        answer = result.version, result.variant, task, result.scores, result.explanations
        encoded = encode_infer_response(request, model, *answer)
        headers = _variant_headers(result)
        if encoded.header_length is None:
            return HttpResponse(encoded.body, 200, headers)
        return HttpResponse(encoded.body, 200, headers | {JSON_LENGTH_HEADER: str(encoded.header_length)}, BINARY)

    async def _invocations(self, call: _Call) -> HttpResponse:
        manifest, limits = call.state.champion.manifest, call.state.config.limits
        body = parse_json_object(await call.request.read_body(limits.body_bytes))
        explain = explain_option(body.get("params"), "params")
        result = await self._score(call, call.id, parse_invocation(body, manifest.features, limits.rows), explain)
        content = encode_invocation_response(result.version, manifest.task, result.scores, result.explanations)
        return HttpResponse(content, 200, _variant_headers(result))

    async def _explain(self, call: _Call) -> HttpResponse:
        """Score and explain rows without logging them: they are no predictions, and no evidence of a rollout."""
        state, limits = call.state, call.state.config.limits
        body, id = parse_json_object(await call.request.read_body(limits.body_bytes)), call.id
        if is_tensor_request(body):
            request = state.parser.parse(body, id)
            id, rows = request.id, request.rows
        else:
            rows = parse_invocation(body, state.champion.manifest.features, limits.rows)
            explain_option(body.get("params"), "params")
        key = call.request.header(ROUTING_KEY_HEADER)
        result = await self._engine.explain(state, id, rows, key, call.pinned, ExplainOptions(report=False))
        model = state.config.champion.model
        content = encode_explain_response(id, model, result.version, result.variant, result.explanations)
        return HttpResponse(content, 200, _variant_headers(result))

    async def _feedback(self, call: _Call) -> HttpResponse:
        limits = call.state.config.limits
        body = parse_json_object(await call.request.read_body(limits.body_bytes))
        labels = parse_feedback(body, call.state.champion.manifest.task, limits.rows)
        self._engine.telemetry.record_labels(labels)
        return json_response({"accepted": labels.num_rows})

    async def _score(self, call: _Call, id: str, rows: RequestRows, explain: ExplainOption = None) -> InferenceResult:
        key = call.request.header(ROUTING_KEY_HEADER)
        if explain is None:
            return await self._engine.infer(call.state, id, rows, key, call.pinned)
        options = ExplainOptions(store=explain == STORE)
        return await self._engine.explain(call.state, id, rows, key, call.pinned, options)


def open_authenticator(settings: Settings) -> Authenticator | None:
    """Build the authenticator that the settings describe; None when access is open."""
    if not settings.access:
        return None
    # Where access is open, its dependencies are not imported.
    from deployments.auth import authenticator

    return authenticator.open_authenticator(settings)


def method_not_allowed(method: str) -> RequestError:
    """The 405 for a path that takes another method."""
    return RequestError("request.method_not_allowed", headers={"allow": method}, method=method)


def _variant_headers(result: InferenceResult) -> dict[str, str]:
    return {VERSION_HEADER: result.version, VARIANT_HEADER: result.variant}
