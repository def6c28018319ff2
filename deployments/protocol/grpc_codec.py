"""gRPC requests to what protocol.Form reads, and scores to gRPC answers. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.errors import RequestError
from cluster.values import Task
from deployments.protocol import binary_tensors
from deployments.protocol.inference_pb import MESSAGES
from deployments.protocol.open_inference import InferRequest, describe_model, output_tensors
from features.definitions import FeatureSet

_CONTENTS = {
    "BOOL": "bool_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    **{f"INT{bits}": "int_contents" for bits in (8, 16, 32)},
    **{f"UINT{bits}": "uint_contents" for bits in (8, 16, 32)},
}


def to_rest_body(request: Any) -> dict[str, Any]:
    """A ModelInferRequest in the shape of the REST body. Raises RequestError naming the field."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"{len(raw)} tensors for {len(request.inputs)} inputs", field="raw_input_contents")
    inputs = []
    for i, tensor in enumerate(request.inputs):
        field = f"inputs[{i}]"
        data = (
            binary_tensors.decode_tensor(memoryview(raw[i]), tensor.datatype, field)
            if raw
            else _contents(tensor, field)
        )
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data})
    body: dict[str, Any] = {"inputs": inputs}
    if request.id:
        body["id"] = request.id
    if request.outputs:
        body["outputs"] = [{"name": output.name} for output in request.outputs]
    return body


def build_infer_response(request: InferRequest, model: str, version: str, variant: str, task: Task, scores: Any) -> Any:
    """A ModelInferResponse, tensors in raw form."""
    response = MESSAGES["ModelInferResponse"](model_name=model, model_version=version, id=request.id)
    response.parameters["variant"].string_param = variant
    for output in output_tensors(task, scores):
        if not request.outputs or output.name in request.outputs:
            response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            response.raw_output_contents.append(binary_tensors.encode_tensor(output.values))
    return response


def build_metadata_response(model: str, versions: Sequence[str], features: FeatureSet, task: Task) -> Any:
    """A ModelMetadataResponse."""
    return MESSAGES["ModelMetadataResponse"](**describe_model(model, versions, features, task))


def _contents(tensor: Any, field: str) -> list[Any]:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise RequestError(f"datatype {tensor.datatype[:20]!r} is not known", field=f"{field}.datatype")
    values = getattr(tensor.contents, name)
    if tensor.datatype != "BYTES":
        return list(values)
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestError("text must be UTF-8", field=f"{field}.contents") from error
