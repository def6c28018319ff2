"""The messages of the protocol's gRPC service, ``inference.GRPCInferenceService``. No Ray.

https://github.com/kserve/open-inference-protocol, "GRPC API": field numbers and types are the protocol's. The descriptors
are made here instead of by a compiler, in a pool of their own: a process that holds a client's generated messages of
the same names is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}

# Fields in the order of their numbers, from 1. "*" is repeated, "@" a map from string, "|" part of the one-of.
_MESSAGES: dict[str, str] = {
    "InferParameter": "bool_param|bool int64_param|int64 string_param|string double_param|double uint64_param|uint64",
    "InferTensorContents": "bool_contents*bool int_contents*int32 int64_contents*int64 uint_contents*uint32 "
    "uint64_contents*uint64 fp32_contents*float fp64_contents*double bytes_contents*bytes",
    "TensorMetadata": "name:string datatype:string shape*int64",
    "InferInputTensor": "name:string datatype:string shape*int64 parameters@InferParameter contents:InferTensorContents",
    "InferRequestedOutputTensor": "name:string parameters@InferParameter",
    "InferOutputTensor": "name:string datatype:string shape*int64 parameters@InferParameter contents:InferTensorContents",
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions*string",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ModelMetadataRequest": "name:string version:string",
    "ModelMetadataResponse": "name:string versions*string platform:string inputs*TensorMetadata outputs*TensorMetadata",
    "ModelInferRequest": "model_name:string model_version:string id:string parameters@InferParameter "
    "inputs*InferInputTensor outputs*InferRequestedOutputTensor raw_input_contents*bytes",
    "ModelInferResponse": "model_name:string model_version:string id:string parameters@InferParameter "
    "outputs*InferOutputTensor raw_output_contents*bytes",
}
METHODS = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")


def add_inference_service(servicer: Any, server: Any) -> None:
    """Register the service, as a generated ``add_…Servicer_to_server`` does. Serve is told this name."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=MESSAGES[f"{method}Request"].FromString,
            response_serializer=_serialized,
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="rayloop/inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), 1):
            _add_field(message, field, number)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, declared: str, number: int) -> None:
    mark = next(mark for mark in ":*@|" if mark in declared)
    name, kind = declared.split(mark)
    label = _Field.LABEL_REPEATED if mark in "*@" else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if mark == "@":
        entry = f"{name.title()}Entry"
        pair = message.nested_type.add(name=entry, options=descriptor_pb2.MessageOptions(map_entry=True))
        _add_field(pair, "key:string", 1)
        _add_field(pair, f"value:{kind}", 2)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.{entry}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    if mark == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


def _classes() -> Mapping[str, Callable[..., Any]]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    classes: dict[str, Any] = {}
    for name in _MESSAGES:
        classes[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        # Serve's fallback proxy pickles a message on its way to a replica: by module and name.
        classes[name].__module__ = __name__
    return classes


MESSAGES: Mapping[str, Any] = _classes()
globals().update(MESSAGES)
