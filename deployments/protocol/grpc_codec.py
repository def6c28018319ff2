"""gRPC requests to the shape of REST bodies, which InferRequestParser reads; scores to gRPC responses. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.errors import RequestError
from cluster.values import Task
from deployments.protocol import binary_tensors, inference_pb2
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


def to_rest_body(request: inference_pb2.ModelInferRequest) -> dict[str, Any]:
    """Convert a ModelInferRequest to the shape of the REST body. Raises RequestError naming the field."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            "request.wrong_tensor_count", field="raw_input_contents", tensors=len(raw), inputs=len(request.inputs)
        )
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
    """Build a ModelInferResponse with tensors in raw form.

    Args:
        request: The parsed request; its ``outputs`` select the tensors.
        model: Name of the model.
        version: Version that answered.
        variant: Variant that answered.
        task: The model's task.
        scores: Its scores, as ``cluster.values.Task`` describes them.
    """
    response = inference_pb2.ModelInferResponse(model_name=model, model_version=version, id=request.id)
    response.parameters["variant"].string_param = variant
    for output in output_tensors(task, scores):
        if not request.outputs or output.name in request.outputs:
            response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            response.raw_output_contents.append(binary_tensors.encode_tensor(output.values))
    return response


def build_metadata_response(model: str, versions: Sequence[str], features: FeatureSet, task: Task) -> Any:
    """Build a ModelMetadataResponse (see ``open_inference.describe_model``)."""
    return inference_pb2.ModelMetadataResponse(**describe_model(model, versions, features, task))


def _contents(tensor: Any, field: str) -> list[Any]:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise binary_tensors.wrong_datatype(field, list(_CONTENTS), tensor.datatype)
    values = getattr(tensor.contents, name)
    if tensor.datatype != "BYTES":
        return list(values)
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestError("request.not_utf8", field=f"{field}.contents") from error
