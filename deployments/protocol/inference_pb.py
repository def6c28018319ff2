"""The protocol's gRPC service, ``inference.GRPCInferenceService``, with the messages of inference.proto. No Ray.

inference_pb2 is generated; after a change of inference.proto run
``python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. deployments/protocol/inference.proto``.
"""

from __future__ import annotations

from typing import Any

import grpc

from deployments.protocol import inference_pb2

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")


def add_inference_service(servicer: Any, server: Any) -> None:
    """Register the service, as a generated ``add_…Servicer_to_server`` does. Serve's configuration names it."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=getattr(inference_pb2, f"{method}Request").FromString,
            response_serializer=getattr(inference_pb2, f"{method}Response").SerializeToString,
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
