"""The protocol's gRPC methods, as Serve calls them on a deployment. Callers name the application in the metadata."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from ray.serve.grpc_util import RayServegRPCContext

from cluster.errors import RequestError
from deployments.auth.credentials import Scope
from deployments.http_messages import ROUTING_KEY_HEADER, VARIANT_HEADER
from deployments.inference.dispatch import ServingState
from deployments.inference.engine import Engine
from deployments.protocol.grpc_codec import build_infer_response, build_metadata_response, to_rest_body
from deployments.protocol.inference_pb import MESSAGES
from deployments.protocol.open_inference import validate_request_id

if TYPE_CHECKING:
    from deployments.auth.authenticator import Authenticator

EXTENSIONS = ("binary_tensor_data",)
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
    """What a deployment inherits to answer gRPC: it has ``_live``, ``_engine`` and, where callers are checked, ``_gate``."""

    _live: ServingState | None
    _engine: Engine
    _gate: Authenticator | None

    async def ServerLive(self, request: Any) -> Any:  # noqa: N802
        return MESSAGES["ServerLiveResponse"](live=True)

    async def ServerReady(self, request: Any) -> Any:  # noqa: N802
        return MESSAGES["ServerReadyResponse"](ready=self._live is not None)

    async def ServerMetadata(self, request: Any) -> Any:  # noqa: N802
        return MESSAGES["ServerMetadataResponse"](name="rayloop", version="2", extensions=EXTENSIONS)

    async def ModelReady(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        async def ready(live: ServingState) -> Any:
            self._named(live, request.name)
            live.forced(request.version or None, None)
            return MESSAGES["ModelReadyResponse"](ready=True)

        return await self._guarded(ready, grpc_context, "ModelReadyResponse")

    async def ModelMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        async def told(live: ServingState) -> Any:
            self._named(live, request.name)
            await self._admit(grpc_context, request.name, "read")
            manifest = live.champion.manifest
            return build_metadata_response(request.name, list(live.versions), manifest.features, manifest.task)

        return await self._guarded(told, grpc_context, "ModelMetadataResponse")

    async def ModelInfer(self, request: Any, grpc_context: RayServegRPCContext) -> Any:  # noqa: N802
        sent = dict(grpc_context.invocation_metadata())

        async def infer(live: ServingState) -> Any:
            self._named(live, request.model_name)
            await self._admit(grpc_context, request.model_name, "infer")
            forced = live.forced(request.model_version or None, sent.get(VARIANT_HEADER))
            default = validate_request_id(grpc_context.request_id() or uuid4().hex)
            asked = live.form.parse(to_rest_body(request), default)
            outcome = await self._engine.answer(live, asked.id, asked.rows, sent.get(ROUTING_KEY_HEADER), forced)
            task = live.champion.manifest.task
            return build_infer_response(
                asked, request.model_name, outcome.version, outcome.variant, task, outcome.scores
            )

        return await self._guarded(infer, grpc_context, "ModelInferResponse")

    async def _admit(self, context: RayServegRPCContext, model: str, scope: Scope) -> None:
        if self._gate is not None:
            await self._gate.admit(context.invocation_metadata(), model, scope)

    def _named(self, live: ServingState, name: str) -> None:
        if name != live.config.champion.model:
            raise RequestError(f"no model {name[:100]!r} here", field="model_name", status=404)

    async def _guarded(
        self, work: Callable[[ServingState], Awaitable[Any]], context: RayServegRPCContext, response: str
    ) -> Any:
        """What ``work`` gives, or an empty response with a status that says why."""
        assert self._live is not None
        try:
            return await work(self._live)
        except RequestError as error:
            context.set_code(_CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT))
            context.set_details(f"{error.field}: {error}" if error.field else str(error))
        except Exception as error:
            _log.exception("request failed")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details(f"the model failed: {type(error).__name__}")
        return MESSAGES[response]()
