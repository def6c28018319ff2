"""The protocol's gRPC methods, which Serve calls on a deployment; callers name the application in the metadata."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from ray.serve.grpc_util import RayServegRPCContext

from cluster.errors import RequestError
from deployments.auth.credentials import Scope
from deployments.http_messages import ROUTING_KEY_HEADER, VARIANT_HEADER
from deployments.inference.engine import Engine
from deployments.inference.serving_state import ServingState
from deployments.protocol import inference_pb2
from deployments.protocol.grpc_codec import build_infer_response, build_metadata_response, to_rest_body
from deployments.protocol.open_inference import validate_request_id

if TYPE_CHECKING:
    from deployments.auth.authenticator import Authenticator

# Trailing metadata of an error: its stable code, and the part of the request at fault, if any.
_CODE_KEY, _FIELD_KEY = "rayloop-code", "rayloop-field"
_METHOD_LABEL = "gRPC"
_EXTENSIONS = ("binary_tensor_data",)
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.OUT_OF_RANGE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}

_log = logging.getLogger(__name__)


class GrpcServicer:
    """gRPC methods that a deployment inherits. It sets ``_state``, ``_engine`` and ``_authenticator``."""

    _state: ServingState | None
    _engine: Engine
    _authenticator: Authenticator | None

    async def ServerLive(self, request: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerReadyResponse(ready=self._state is not None)

    async def ServerMetadata(self, request: Any) -> Any:  # noqa: N802
        return inference_pb2.ServerMetadataResponse(name="rayloop", version="2", extensions=_EXTENSIONS)

    async def ModelReady(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        async def ready(state: ServingState) -> Any:
            _check_model(state, request.name)
            state.pinned_version(request.version or None, None)
            return inference_pb2.ModelReadyResponse(ready=True)

        return await self._respond(ready, grpc_context, inference_pb2.ModelReadyResponse)

    async def ModelMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        async def metadata(state: ServingState) -> Any:
            _check_model(state, request.name)
            await self._admit(grpc_context, request.name, "read")
            manifest = state.champion.manifest
            return build_metadata_response(request.name, list(state.versions), manifest.features, manifest.task)

        return await self._respond(metadata, grpc_context, inference_pb2.ModelMetadataResponse)

    async def ModelInfer(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        headers = dict(grpc_context.invocation_metadata())

        async def infer(state: ServingState) -> Any:
            model = request.model_name
            _check_model(state, model)
            await self._admit(grpc_context, model, "infer")
            pinned = state.pinned_version(request.model_version or None, headers.get(VARIANT_HEADER))
            default_id = validate_request_id(grpc_context.request_id() or uuid4().hex)
            parsed = state.parser.parse(to_rest_body(request), default_id)
            key = headers.get(ROUTING_KEY_HEADER)
            result = await self._engine.infer(state, parsed.id, parsed.rows, key, pinned)
            task = state.champion.manifest.task
            return build_infer_response(parsed, model, result.version, result.variant, task, result.scores)

        return await self._respond(infer, grpc_context, inference_pb2.ModelInferResponse)

    async def _admit(self, context: RayServegRPCContext, model: str, scope: Scope) -> None:
        if self._authenticator is not None:
            await self._authenticator.admit(context.invocation_metadata(), model, scope)

    async def _respond(
        self, work: Callable[[ServingState], Awaitable[Any]], context: RayServegRPCContext, response: Callable[[], Any]
    ) -> Any:
        """The message that ``work`` returns, or an empty ``response`` with status and metadata that say what failed."""
        assert self._state is not None
        started = time.perf_counter()
        try:
            message = await work(self._state)
            self._record(200, started)
            return message
        except RequestError as error:
            failure = error
        except Exception as error:
            _log.exception("request failed")
            failure = RequestError("request.model_failed", error=type(error).__name__)
        self._record(failure.status, started)
        context.set_code(_CODES.get(failure.status, grpc.StatusCode.INVALID_ARGUMENT))
        context.set_details(f"{failure.field}: {failure}" if failure.field else str(failure))
        # Metadata must be ASCII: a field is a header, or a path into the request by index; never a caller's text.
        field = [(_FIELD_KEY, failure.field)] if failure.field else []
        context.set_trailing_metadata([(_CODE_KEY, failure.code), *field])
        return response()

    def _record(self, status: int, started: float) -> None:
        """Count the answer with the HTTP status of its kind, so that one alert sees both protocols."""
        self._engine.telemetry.record_response(_METHOD_LABEL, status, time.perf_counter() - started)


def _check_model(state: ServingState, name: str) -> None:
    if name != state.config.champion.model:
        raise RequestError("request.model_not_found", field="model_name", model=name[:100])
