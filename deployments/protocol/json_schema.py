"""JSON Schema (2020-12) of the requests that open_inference, mlflow_invocations and feedback parse. Pure.

A schema is never stricter than the parser: what it refuses, the parser refuses. It may be looser, because JSON Schema
cannot say that all columns have the same number of rows, or that an integer fits the datatype next to it.
"""

from __future__ import annotations

import math
from typing import Any

from cluster.values import Task
from deployments.protocol.arrow_columns import MAX_NUMBER, required_columns
from deployments.protocol.explain_requests import STORE
from deployments.protocol.open_inference import INTEGERS, REQUEST_ID
from features.definitions import Column, FeatureSet

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
ID_SCHEMA: Schema = {"type": "string", "pattern": f"^{REQUEST_ID}$"}
_ROW_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 220}
_NULL: Schema = {"type": "null"}
_BOOLEAN: Schema = {"type": "boolean"}
# Data frames send boolean columns as true and false; they count as 1 and 0.
_NUMBER: Schema = {"type": ["number", "boolean"], "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
_INTEGER: Schema = {"type": ["integer", "boolean"]}
_MOMENT: Schema = {
    "description": "ISO 8601 text (UTC without an offset), or integer microseconds since 1970, UTC; years 1 to 9999",
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer"}],
}
_FLOATS = ["FP32", "FP64"]
_INTEGERS = list(INTEGERS)
_NUMBERS = ((_FLOATS, _NUMBER), (["BOOL"], _BOOLEAN), (_INTEGERS, _INTEGER))


EXPLAIN_PARAMETERS: Schema = {
    "description": 'with "explain": true the answer explains each row, with "store" the prediction log keeps it too',
    "properties": {"explain": {"enum": [None, False, True, STORE]}},
}


def infer_request_schema(features: FeatureSet, outputs: list[str], max_rows: int) -> Schema:
    """Schema of an Open Inference Protocol request: each request column once, in any order."""
    tensors = [_tensor(column, column.name in required_columns(features), max_rows) for column in features.request]
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _or_null(
                ID_SCHEMA | {"description": "the request's id; default: the x-request-id header, otherwise a new one"}
            ),
            "inputs": {
                "description": f"each input once, in any order; all with the same number of rows, 1 to {max_rows:,}",
                "type": "array",
                "minItems": len(tensors),
                "maxItems": len(tensors),
                "items": tensors[0] if len(tensors) == 1 else {"anyOf": tensors},
            },
            "outputs": _or_null(
                {"description": "the requested outputs; default: all"}
                | array_schema(object_schema(name={"enum": outputs}))
            ),
            "parameters": EXPLAIN_PARAMETERS,
        },
    }


def invocation_request_schema(features: FeatureSet, max_rows: int) -> Schema:
    """Schema of an invocation: exactly one of MLflow's four shapes."""
    columns = features.request
    values = {column.name: _value(column, column.name in required_columns(features)) for column in columns}
    closed = {"additionalProperties": False}
    rows = _list(object_schema(**values) | closed, max_rows)
    by_name = object_schema(**{name: _list(value, max_rows) for name, value in values.items()}) | closed
    bare = [_list(value, max_rows) for value in values.values()] if len(columns) == 1 else []
    any_value = next(iter(values.values())) if len(columns) == 1 else {"anyOf": _distinct(list(values.values()))}
    split = {
        "columns": {"type": "array", "items": {"enum": list(values)}, "minItems": len(columns)},
        "data": _list({"type": "array", "items": any_value, "minItems": len(columns)}, max_rows),
    }
    shapes: dict[str, Schema] = {
        "dataframe_split": object_schema(**split),
        "dataframe_records": rows,
        "instances": {"anyOf": [rows, *bare]} if bare else rows,
        "inputs": {"anyOf": [by_name, *bare]} if bare else by_name,
    }
    return {
        "description": f"exactly one of {', '.join(shapes)}, with 1 to {max_rows:,} rows",
        "type": "object",
        "properties": shapes | {"params": EXPLAIN_PARAMETERS},
        "oneOf": [{"required": [shape]} for shape in shapes],
    }


def feedback_request_schema(task: Task, max_rows: int) -> Schema:
    """Schema of a feedback request: true labels of answered rows."""
    entry = object_schema(id=_ROW_ID | {"description": _ROW_ID_HELP}, label=_label(task))
    entry["properties"]["time"] = _or_null(_MOMENT)
    return object_schema(labels=_list(entry, max_rows))


_ROW_ID_HELP = "the request's id if it had one row, otherwise `<id>/0`, `<id>/1` and so on"


def _label(task: Task) -> Schema:
    if task.kind == "multiclass":
        return {"enum": list(task.classes)}
    return {"enum": [0, 1, False, True]} if task.kind == "binary" else _NUMBER


def _tensor(column: Column, needed: bool, max_rows: int) -> Schema:
    """One input tensor: its name, and its datatypes with their values."""
    if column.kind == "number":
        kinds = [(names, value if needed else _or_null(value)) for names, value in _NUMBERS]
        variants = [{"datatype": {"enum": names}, "data": _flat_or_nested(value)} for names, value in kinds]
    elif column.kind == "tensor":
        variants = [{"datatype": {"enum": _FLOATS + _INTEGERS}, "data": _tensor_rows(column.shape)}]
    else:
        datatypes = ["BYTES"] if column.kind == "category" else ["BYTES", "INT64"]
        variants = [{"datatype": {"enum": datatypes}, "data": _flat_or_nested(_value(column, needed))}]
    common = {"name": {"const": column.name}, "shape": _shape(column, max_rows)}
    tensors = [object_schema(**common, **variant) for variant in variants]
    return tensors[0] if len(tensors) == 1 else {"anyOf": tensors}


def _shape(column: Column, max_rows: int) -> Schema:
    rows = {"type": "integer", "minimum": 1, "maximum": max_rows}
    sizes: list[Schema] = [rows, *({"const": size} for size in column.shape)]
    if column.shape:
        return {"type": "array", "prefixItems": sizes, "items": False, "minItems": len(sizes), "maxItems": len(sizes)}
    return {"type": "array", "prefixItems": [rows, {"const": 1}], "items": False, "minItems": 1, "maxItems": 2}


def _value(column: Column, needed: bool) -> Schema:
    """One row's value of a column, as JSON."""
    if column.kind == "tensor":
        return _tensor_row(column.shape)
    if column.kind == "timestamp":
        return _MOMENT
    value = _NUMBER if column.kind == "number" else TEXT
    return value if needed else _or_null(value)


def _tensor_rows(shape: tuple[int, ...]) -> Schema:
    flat = {"type": "array", "items": _NUMBER, "minItems": math.prod(shape)}
    return {"anyOf": [flat, {"type": "array", "items": _tensor_row(shape), "minItems": 1}]}


def _tensor_row(shape: tuple[int, ...]) -> Schema:
    """One row of a tensor, flat or nested according to ``shape``."""
    size = math.prod(shape)
    flat: Schema = {"type": "array", "items": _NUMBER, "minItems": size, "maxItems": size}
    if len(shape) == 1:
        return flat
    nested = {"type": "array", "items": _tensor_row(shape[1:]), "minItems": shape[0], "maxItems": shape[0]}
    return {"anyOf": [flat, nested]}


def _flat_or_nested(value: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "anyOf": [{"items": value}, {"items": {"type": "array", "items": value}}]}


def _list(items: Schema, max_rows: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": max_rows}


def object_schema(**properties: Schema) -> Schema:
    """Schema of an object in which all these properties are required."""
    return {"type": "object", "required": list(properties), "properties": properties}


def array_schema(items: Schema) -> Schema:
    """Schema of an array of any length."""
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], _NULL]}
    return {"anyOf": [schema, _NULL]}


def _distinct(schemas: list[Schema]) -> list[Schema]:
    return [schema for i, schema in enumerate(schemas) if schema not in schemas[:i]]
