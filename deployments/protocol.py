"""Open Inference Protocol v2 over REST (JSON): requests to typed rows, scores to answers. Pure.

https://github.com/kserve/open-inference-protocol. ``data`` may be flat or nested, and null stands for
a missing number or category. Row ids, by which labels come back: the request id when there is one
row, else ``<request id>/0`` and so on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic_core import from_json, to_json

from cluster.contracts import Task, Variant
from cluster.errors import RequestError
from deployments.columns import MAX_NUMBER, build_column, build_table, microseconds, required
from features.definitions import Column, FeatureSet

PLATFORM = "rayloop_onnx"

_ID = re.compile(r"[\x21-\x7e]{1,200}")
_INTEGERS = {
    f"{sign}INT{bits}": getattr(pa, f"{sign.lower()}int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_NUMBERS = {"FP32": pa.float64(), "FP64": pa.float64(), "BOOL": pa.bool_(), **_INTEGERS}
_DATATYPES: dict[str, tuple[str, ...]] = {
    "number": tuple(_NUMBERS),
    "category": ("BYTES",),
    "timestamp": ("BYTES", "INT64"),
    "tensor": ("FP32", "FP64", *_INTEGERS),
}
_OUTPUTS = {"binary": ("score",), "multiclass": ("probabilities", "label"), "regression": ("value",)}
_DECLARED = {"number": "FP64", "category": "BYTES", "timestamp": "BYTES", "tensor": "FP32"}


class InferRequest(NamedTuple):
    """Typed rows, and which outputs are wanted (empty: all)."""

    id: str
    rows: pa.Table
    outputs: tuple[str, ...]


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Raises RequestError when there is none."""
    try:
        value = from_json(body, cache_strings=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}", field="body") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", field="body")
    return value


def check_id(value: object, field: str = "id") -> str:
    """A request id: 1 to 200 printable ASCII characters without spaces, so that it fits a header."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise RequestError("an id is 1 to 200 printable ASCII characters without spaces", field=field)


def row_ids(request: str, rows: int) -> list[str]:
    """Ids of a request's rows, by which labels are joined."""
    return [request] if rows == 1 else [f"{request}/{row}" for row in range(rows)]


def parse_infer(
    body: Mapping[str, Any], features: FeatureSet, task: Task, default_id: str, max_rows: int
) -> InferRequest:
    """Check an inference request and type its columns.

    Raises RequestError naming the field, with status 413 beyond ``max_rows``.
    """
    request = check_id(body["id"]) if body.get("id") is not None else default_id
    inputs = _by_name(body.get("inputs"), features)
    rows = _row_count(inputs, max_rows)
    needed = required(features)
    values = {
        column.name: _input(column, *inputs[column.name], rows=rows, required=column.name in needed)
        for column in features.request
    }
    return InferRequest(request, build_table(features, values), _wanted(body.get("outputs"), task))


def infer_answer(
    request: InferRequest, model: str, version: str, variant: Variant, task: Task, scores: np.ndarray
) -> bytes:
    """The response body. ``scores`` as contracts.Task says."""
    made = outputs(task, scores)
    kept = [output for output in made if not request.outputs or output["name"] in request.outputs]
    return to_json(
        {
            "model_name": model,
            "model_version": version,
            "id": request.id,
            "parameters": {"variant": variant},
            "outputs": kept,
        }
    )


def outputs(task: Task, scores: np.ndarray) -> list[dict[str, Any]]:
    """Scores as output tensors: ``score``, ``value``, or ``probabilities`` and ``label``."""
    rows = len(scores)
    if task.kind != "multiclass":
        return [{"name": _OUTPUTS[task.kind][0], "datatype": "FP32", "shape": [rows], "data": scores.tolist()}]
    return [
        {"name": "probabilities", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()},
        {"name": "label", "datatype": "BYTES", "shape": [rows], "data": predicted(task, scores)},
    ]


def predicted(task: Task, scores: np.ndarray) -> list[str]:
    """Names of the most probable classes, [n]."""
    return [task.classes[i] for i in scores.argmax(axis=1)]


def metadata(model: str, version: str, features: FeatureSet, task: Task) -> dict[str, Any]:
    """Model metadata with the request columns as inputs; -1 is the row axis."""
    example = outputs(task, np.zeros((1, task.outputs) if task.kind == "multiclass" else 1, np.float32))
    return {
        "name": model,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [{"name": c.name, "datatype": _DECLARED[c.kind], "shape": [-1, *c.shape]} for c in features.request],
        "outputs": [{"name": o["name"], "datatype": o["datatype"], "shape": [-1, *o["shape"][1:]]} for o in example],
    }


def parse_feedback(body: Mapping[str, Any], task: Task, max_rows: int) -> pa.Table:
    """Labels as a table ``id`` string, ``label`` float64 (contracts.Task), ``time`` timestamp or null."""
    labels = body.get("labels")
    if not isinstance(labels, list) or not labels:
        raise RequestError('expected {"labels": [{"id": …, "label": …}, …]} with one label or more', field="labels")
    if len(labels) > max_rows:
        raise RequestError(f"{len(labels)} labels, at most {max_rows} are taken", field="labels", status=413)
    rows = [_label(entry, task, f"labels[{i}]") for i, entry in enumerate(labels)]
    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "label": pa.array([row[1] for row in rows], pa.float64()),
            "time": pa.array([row[2] for row in rows], pa.timestamp("us", tz="UTC")),
        }
    )


def _label(entry: object, task: Task, field: str) -> tuple[str, float, int | None]:
    if not isinstance(entry, dict):
        raise RequestError("expected an object with id and label", field=field)
    row = entry.get("id")
    # A row id is a request id and, for several rows, its index.
    if not isinstance(row, str) or not 0 < len(row) <= 220:
        raise RequestError("expected the row id of a prediction", field=f"{field}.id")
    time = entry.get("time")
    return (
        row,
        _label_value(entry.get("label"), task, f"{field}.label"),
        None if time is None else microseconds(time, f"{field}.time"),
    )


def _label_value(value: object, task: Task, field: str) -> float:
    if task.kind == "multiclass":
        if isinstance(value, str) and value in task.classes:
            return float(task.classes.index(value))
        raise RequestError(f"expected a class: one of {', '.join(task.classes)}", field=field)
    number = value if isinstance(value, bool | int | float) and abs(value) <= MAX_NUMBER else math.nan
    if number in (0, 1) or (task.kind == "regression" and not math.isnan(number)):
        return float(number)
    raise RequestError("expected 0, 1, false or true" if task.kind == "binary" else "expected a number", field=field)


def _by_name(inputs: object, features: FeatureSet) -> dict[str, tuple[dict[str, Any], str]]:
    if not isinstance(inputs, list) or not inputs:
        raise RequestError("expected a list of input tensors", field="inputs")
    known = {column.name for column in features.request}
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for i, tensor in enumerate(inputs):
        field = f"inputs[{i}]"
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or name not in known:
            raise RequestError(f"unknown input; the model takes {', '.join(sorted(known))}", field=f"{field}.name")
        if name in found:
            raise RequestError(f"input {name!r} is given twice", field=f"{field}.name")
        found[name] = (tensor, field)
    missing = [column.name for column in features.request if column.name not in found]
    if missing:
        raise RequestError(f"missing {', '.join(missing)}", field="inputs", todo="null stands for an unknown value")
    return found


def _row_count(inputs: Mapping[str, tuple[dict[str, Any], str]], max_rows: int) -> int:
    counts = {_shape(tensor, field)[0]: field for tensor, field in inputs.values()}
    if len(counts) > 1:
        raise RequestError(f"inputs differ in rows: {sorted(counts)}", field=f"{counts[max(counts)]}.shape")
    rows = next(iter(counts))
    if rows > max_rows:
        raise RequestError(f"{rows} rows, at most {max_rows} are answered at once", field="inputs", status=413)
    if rows < 1:
        raise RequestError("no rows", field=f"{next(iter(counts.values()))}.shape")
    return rows


def _shape(tensor: Mapping[str, Any], field: str) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise RequestError("expected a list of sizes, rows first", field=f"{field}.shape")
    return shape


def _input(column: Column, tensor: Mapping[str, Any], field: str, *, rows: int, required: bool) -> pa.Array:
    shape = _shape(tensor, field)
    allowed = [[rows, *column.shape]] if column.shape else [[rows], [rows, 1]]
    if shape not in allowed:
        raise RequestError(f"shape {shape}, expected {allowed[0]}", field=f"{field}.shape")
    datatype = tensor.get("datatype")
    if datatype not in _DATATYPES[column.kind]:
        expected = " or ".join(_DATATYPES[column.kind])
        raise RequestError(f"datatype {str(datatype)[:20]!r}, expected {expected}", field=f"{field}.datatype")
    values = _data(tensor.get("data"), rows, column, f"{field}.data")
    kind = _NUMBERS[datatype] if column.kind == "number" else None
    return build_column(column, values, f"{field}.data", kind=kind, required=required)


def _data(data: object, rows: int, column: Column, field: str) -> Sequence[Any]:
    """The values by row, from flat or nested ``data``."""
    if not isinstance(data, list):
        raise RequestError("expected a list of values", field=field, todo="binary tensors are not taken")
    if not column.shape:
        values = list(chain.from_iterable(data)) if data and all(isinstance(v, list) for v in data) else data
        if len(values) != rows:
            raise RequestError(f"{len(values)} values for {rows} rows", field=field)
        return values
    if len(data) == rows and all(isinstance(row, list) for row in data):
        return data
    size, rest = divmod(len(data), rows)
    if rest or any(isinstance(value, list) for value in data):
        raise RequestError(f"{len(data)} values do not make {rows} rows of shape {list(column.shape)}", field=field)
    return [data[row * size : (row + 1) * size] for row in range(rows)]


def _wanted(asked: object, task: Task) -> tuple[str, ...]:
    if asked is None:
        return ()
    if not isinstance(asked, list):
        raise RequestError("expected a list of outputs", field="outputs")
    known = _OUTPUTS[task.kind]
    for i, output in enumerate(asked):
        if not isinstance(output, dict) or output.get("name") not in known:
            raise RequestError(f"unknown output; the model gives {', '.join(known)}", field=f"outputs[{i}].name")
    return tuple(output["name"] for output in asked)
