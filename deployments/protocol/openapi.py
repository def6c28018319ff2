"""The OpenAPI 3.1 document of a served model: its paths with the model's own inputs, outputs and classes. Pure."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np

from cluster.names import CHALLENGER, CHAMPION
from cluster.values import Task
from deployments import http_messages
from deployments.auth.credentials import REQUIRED_SCOPES
from deployments.protocol import json_schema
from deployments.protocol.binary_tensors import JSON_LENGTH_HEADER
from deployments.protocol.json_schema import TEXT, Schema, array_schema, object_schema
from deployments.protocol.open_inference import DECLARED, describe_model, row_tensor
from deployments.serve_schema import REQUEST_TIMEOUT_S, RequestLimits
from features.attributions.contributions import Method, Unit
from features.definitions import Column, FeatureSet

OPENAPI_VERSION = "3.1.0"
# A longer example does not help the reader and bloats the document.
_MAX_EXAMPLE_VALUES = 1024
_EXAMPLE_ID = "order-17"
_EXAMPLES = {"number": 0.5, "category": "a", "timestamp": "2024-05-01T10:00:00Z"}
_LABELS: dict[str, Any] = {"binary": 1, "regression": 12.5}
_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "an API key, or a JWT of the configured issuer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_ERRORS = {
    400: "malformed request; `field` names the part at fault",
    401: "missing or invalid credential",
    403: "the credential does not cover this model or this kind of request",
    404: "the model is no longer served",
    405: "wrong method; `Allow` names the right one",
    409: "the version cannot explain its scores",
    408: f"no answer within {REQUEST_TIMEOUT_S:g} s, or a body that arrived too slowly",
    413: "more rows or a larger body than one request may have",
    415: "a content encoding other than gzip",
    429: "the caller exceeded its rate limit",
    500: "the model failed",
    503: "too many requests at once, or the online store does not answer",
}
_WAIT = {
    "Retry-After": {"description": "seconds to wait before the next try", "schema": {"type": "integer", "minimum": 1}}
}
_ERROR_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    405: {"Allow": {"schema": {"type": "string"}}},
    429: _WAIT,
    503: _WAIT,
}


def build_openapi(
    features: FeatureSet, task: Task, model: str, version: str, limits: RequestLimits, *, access: bool
) -> dict[str, Any]:
    """Build the OpenAPI document of a model.

    Args:
        features: The model's features.
        task: The model's task.
        model: Its name.
        version: The champion's version.
        limits: The largest request.
        access: Whether callers need a credential.
    """
    outputs = describe_model(model, [version], features, task)["outputs"]
    names = [output["name"] for output in outputs]
    at = f"/v2/models/{model}"
    infer, invocations = _infer(features, limits, access), _invocations(features, limits, access)
    schemas = {
        "InferRequest": json_schema.infer_request_schema(features, names, limits.rows),
        "InferResponse": _infer_response(outputs, model),
        "InvocationRequest": json_schema.invocation_request_schema(features, limits.rows),
        "InvocationResponse": _invocation_response(task),
        "ExplainRequest": {"anyOf": [_ref("InferRequest"), _ref("InvocationRequest")]},
        "ExplainResponse": _explain_response(model),
        "Explanation": _EXPLANATION,
        "FeedbackRequest": json_schema.feedback_request_schema(task, limits.rows),
        "Metadata": _METADATA,
        "Error": _ERROR,
    }
    explain = _explain(features, limits, access)
    paths = {
        at: {"get": _operation("", "The model's inputs and outputs", access, _ref("Metadata"))},
        f"{at}/ready": {"get": _operation("/ready", "Whether the model is ready to answer", access, _READY)},
        f"{at}/openapi.json": {"get": _operation("/openapi.json", "This document", access, {"type": "object"})},
        f"{at}/infer": {"post": infer},
        f"{at}/versions/{version}/infer": {"post": _by_version(infer)},
        f"{at}/invocations": {"post": invocations},
        f"{at}/versions/{version}/invocations": {"post": _by_version(invocations)},
        f"{at}/explain": {"post": explain},
        f"{at}/versions/{version}/explain": {"post": _by_version(explain)},
        f"{at}/feedback": {"post": _feedback(task, limits, access)},
    }
    components: dict[str, Any] = {"schemas": schemas} | ({"securitySchemes": _SECURITY} if access else {})
    info = {"title": model, "version": version, "description": f"Predictions of {model}, served by rayloop."}
    return {"openapi": OPENAPI_VERSION, "info": info, "paths": paths, "components": components}


def example_infer(features: FeatureSet) -> dict[str, Any]:
    """An example request of one row."""
    return {"id": _EXAMPLE_ID, "inputs": [row_tensor(c, _example_value(c), DECLARED[c.kind]) for c in features.request]}


def example_invocations(features: FeatureSet) -> dict[str, dict[str, Any]]:
    """An example request of one row in each of MLflow's shapes."""
    row = {column.name: _example_value(column) for column in features.request}
    return {
        "dataframe_split": {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}},
        "dataframe_records": {"dataframe_records": [row]},
        "instances": {"instances": [row]},
        "inputs": {"inputs": {name: [value] for name, value in row.items()}},
    }


def example_feedback(task: Task) -> dict[str, Any]:
    """An example label of one row."""
    label = task.classes[0] if task.kind == "multiclass" else _LABELS[task.kind]
    return {"labels": [{"id": _EXAMPLE_ID, "label": label, "time": _EXAMPLES["timestamp"]}]}


def _infer(features: FeatureSet, limits: RequestLimits, access: bool) -> Schema:
    answer = _ref("InferResponse")
    operation = _operation("/infer", "Predictions in the format of the Open Inference Protocol v2", access, answer)
    body = _body("InferRequest", {"row": example_infer(features)} if _small(features) else {}, limits)
    body["requestBody"]["content"][http_messages.BINARY] = {"schema": _BYTES}
    operation["responses"]["200"]["content"][http_messages.BINARY] = {"schema": _BYTES}
    headers = _parameters(http_messages.ROUTING_KEY_HEADER, http_messages.VARIANT_HEADER, JSON_LENGTH_HEADER)
    return operation | body | headers


def _invocations(features: FeatureSet, limits: RequestLimits, access: bool) -> Schema:
    answer = _ref("InvocationResponse")
    operation = _operation("/invocations", "Predictions for any of MLflow's four request shapes", access, answer)
    examples = example_invocations(features) if _small(features) else {}
    headers = _parameters(http_messages.ROUTING_KEY_HEADER, http_messages.VARIANT_HEADER)
    return operation | _body("InvocationRequest", examples, limits) | headers


def _explain(features: FeatureSet, limits: RequestLimits, access: bool) -> Schema:
    summary = "Why rows get their scores; they are not logged as predictions"
    operation = _operation("/explain", summary, access, _ref("ExplainResponse"))
    examples = {"row": example_infer(features)} if _small(features) else {}
    headers = _parameters(http_messages.ROUTING_KEY_HEADER, http_messages.VARIANT_HEADER)
    return operation | _body("ExplainRequest", examples, limits) | headers


def _feedback(task: Task, limits: RequestLimits, access: bool) -> Schema:
    accepted = object_schema(accepted=_INTEGER)
    operation = _operation("/feedback", "True labels of predicted rows", access, accepted)
    return operation | _body("FeedbackRequest", {"label": example_feedback(task)}, limits)


def _by_version(operation: Schema) -> Schema:
    """The same operation under a path that names the version."""
    return operation | {"operationId": f"{operation['operationId']}_by_version"}


def _operation(path: str, summary: str, access: bool, answer: Schema) -> Schema:
    scope = REQUIRED_SCOPES[path]
    guarded = access and scope is not None
    statuses = [s for s in _ERRORS if guarded or s not in (401, 403, 429)]
    responses = {"200": _response("success", answer, _ANSWER_HEADERS)}
    responses |= {str(s): _response(_ERRORS[s], _ref("Error"), _ERROR_HEADERS.get(s, {})) for s in statuses}
    name = path.strip("/").removesuffix(".json") or "metadata"
    operation = {"operationId": name, "summary": summary, "responses": responses} | _parameters()
    if not guarded:
        return operation
    return operation | {"security": [{name: []} for name in _SECURITY], "description": f"Requires scope `{scope}`."}


def _response(description: str, schema: Schema, headers: Schema) -> Schema:
    response = {"description": description, "content": {http_messages.JSON: {"schema": schema}}}
    return response | ({"headers": headers} if headers else {})


def _body(schema: str, examples: dict[str, Any], limits: RequestLimits) -> Schema:
    content: Schema = {"schema": _ref(schema)}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    description = f"JSON of at most {limits.body_bytes:,} bytes"
    return {"requestBody": {"required": True, "description": description, "content": {http_messages.JSON: content}}}


def _parameters(*names: str) -> Schema:
    return {"parameters": [_HEADERS[name] for name in (http_messages.REQUEST_ID_HEADER, *names)]}


def _header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


_HEADERS = {
    # An empty header counts as absent.
    http_messages.REQUEST_ID_HEADER: _header(
        http_messages.REQUEST_ID_HEADER,
        "id of the request; default: a new one",
        {"anyOf": [json_schema.ID_SCHEMA, {"const": ""}]},
    ),
    http_messages.ROUTING_KEY_HEADER: _header(
        http_messages.ROUTING_KEY_HEADER,
        "requests with the same key get the same variant; default: the request id",
        {"type": "string"},
    ),
    http_messages.VARIANT_HEADER: _header(
        http_messages.VARIANT_HEADER,
        "for testing: the variant that answers; with several challengers, name the version in the path instead",
        {"enum": [CHAMPION, CHALLENGER]},
    ),
    JSON_LENGTH_HEADER: _header(
        JSON_LENGTH_HEADER,
        "length of the JSON part in bytes, when binary tensors follow it",
        {"type": "integer", "minimum": 0},
    ),
}
_ANSWER_HEADERS: Schema = {
    http_messages.VERSION_HEADER: {"description": "version that answered", "schema": {"type": "string"}},
    http_messages.VARIANT_HEADER: {"description": "variant that answered", "schema": {"enum": [CHAMPION, CHALLENGER]}},
}


_BYTES: Schema = {
    "description": "JSON with `parameters.binary_data_size` in place of `data`, then the tensors; "
    f"see {JSON_LENGTH_HEADER}",
    "type": "string",
    "format": "binary",
}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _infer_response(outputs: list[dict[str, Any]], model: str) -> Schema:
    tensors = [_output(output) for output in outputs]
    outputs_schema = array_schema(tensors[0] if len(tensors) == 1 else {"anyOf": tensors})
    return _with_explanations(object_schema(**_answer_head(model), outputs=outputs_schema))


def _explain_response(model: str) -> Schema:
    return object_schema(**_answer_head(model), explanations=array_schema(_ref("Explanation")))


def _answer_head(model: str) -> dict[str, Schema]:
    variant = object_schema(variant={"enum": [CHAMPION, CHALLENGER]})
    return {"model_name": {"const": model}, "model_version": TEXT, "id": TEXT, "parameters": variant}


def _with_explanations(answer: Schema) -> Schema:
    """An answer that has an explanation of each row where the request asks for them."""
    properties = answer["properties"] | {"explanations": array_schema(_ref("Explanation"))}
    return answer | {"properties": properties}


def _output(output: dict[str, Any]) -> Schema:
    values = TEXT if output["datatype"] == "BYTES" else _NUMBER
    constants = {name: {"const": output[name]} for name in ("name", "datatype")}
    sizes = array_schema(_INTEGER) | {"minItems": len(output["shape"])}
    return object_schema(**constants, shape=sizes, data=array_schema(values))


def _invocation_response(task: Task) -> Schema:
    prediction = _NUMBER
    if task.kind == "multiclass":
        n = len(task.classes)
        probabilities = array_schema(_NUMBER) | {"minItems": n, "maxItems": n}
        prediction = object_schema(label={"enum": list(task.classes)}, probabilities=probabilities)
    return _with_explanations(object_schema(predictions=array_schema(prediction), model_version=TEXT))


_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_NUMBERS_BY_FEATURE = {"type": "object", "additionalProperties": _NUMBER}
_EXPLANATION = object_schema(
    output=TEXT,
    score=_NUMBER,
    method={"enum": list(get_args(Method))},
    unit={"description": "in which base and contributions add up to total", "enum": list(get_args(Unit))},
    base=_NUMBER,
    total=_NUMBER,
    contributions=_NUMBERS_BY_FEATURE,
    errors={
        "description": "standard errors of sampled contributions",
        "anyOf": [_NUMBERS_BY_FEATURE, {"type": "null"}],
    },
    reasons=array_schema(object_schema(feature=TEXT, text=TEXT, contribution=_NUMBER)),
    schema_version=_INTEGER,
)
_TENSORS = array_schema(object_schema(name=TEXT, datatype=TEXT, shape=array_schema(_INTEGER)))
_METADATA = object_schema(name=TEXT, versions=array_schema(TEXT), platform=TEXT, inputs=_TENSORS, outputs=_TENSORS)
_READY = object_schema(name=TEXT, ready={"type": "boolean"})
_ERROR = object_schema(error=TEXT, code=TEXT, field=TEXT) | {"required": ["error", "code"]}


def _small(features: FeatureSet) -> bool:
    return sum(math.prod(column.shape) for column in features.request) <= _MAX_EXAMPLE_VALUES


def _example_value(column: Column) -> Any:
    """The value of one row; a tensor's is flat."""
    return np.zeros(math.prod(column.shape)).tolist() if column.kind == "tensor" else _EXAMPLES[column.kind]
