"""Open Inference Protocol v2 over REST: requests to rows, scores to answers. Pure.

https://github.com/kserve/open-inference-protocol, with the binary tensor extension (binary_tensors.py). ``data`` may be flat or
nested, and null stands for a missing number or category. Row ids, by which labels come back: the request id when there
is one row, else ``<request id>/0`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic_core import from_json, to_json

from cluster.errors import RequestError
from cluster.names import Variant
from cluster.values import Task
from deployments.protocol import binary_tensors
from deployments.protocol.arrow_columns import build_column, convert_column, required_columns
from deployments.protocol.request_rows import ColumnValues, RequestRows
from features.definitions import Column, FeatureSet

PLATFORM = "rayloop_onnx"

_ID = re.compile(r"[\x21-\x7e]{1,200}")
_INTEGERS = {
    f"{sign}INT{bits}": getattr(pa, f"{sign.lower()}int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)
}
_STRICT = {"BOOL": pa.bool_(), **_INTEGERS}
_DATATYPES: dict[str, tuple[str, ...]] = {
    "number": ("FP32", "FP64", *_STRICT),
    "category": ("BYTES",),
    "timestamp": ("BYTES", "INT64"),
    "tensor": ("FP32", "FP64", *_INTEGERS),
}
_OUTPUTS = {"binary": ("score",), "multiclass": ("probabilities", "label"), "regression": ("value",)}
_MAX_LAYOUTS = 256
_DECLARED = {"number": "FP64", "category": "BYTES", "timestamp": "BYTES", "tensor": "FP32"}


class OutputTensor(NamedTuple):
    """One tensor of an answer."""

    name: str
    datatype: str
    shape: list[int]
    values: np.ndarray | list[str]


class InferRequest(NamedTuple):
    """``outputs`` wanted by name (empty: all), and those of them that are wanted in ``binary`` form."""

    id: str
    rows: RequestRows
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()


class _Layout(NamedTuple):
    """What was found out about inputs that look alike: ``rows``, and by column where its tensor stands, and its datatype
    where that is stricter than the column.
    """

    rows: int
    order: tuple[int, ...]
    fields: tuple[str, ...]
    strict: tuple[pa.DataType | None, ...]


class EncodedBody(NamedTuple):
    """A body; ``header_length`` is that of its JSON part when tensors follow in binary form."""

    body: bytes
    header_length: int | None = None


def parse_json_object(body: bytes | memoryview) -> dict[str, Any]:
    """The JSON object in ``body``. Raises RequestError when there is none."""
    try:
        value = from_json(bytes(body), cache_strings=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}", field="body") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", field="body")
    return value


def validate_request_id(value: object, field: str = "id") -> str:
    """A request id: 1 to 200 printable ASCII characters without spaces, so that it fits a header."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise RequestError("an id is 1 to 200 printable ASCII characters without spaces", field=field)


class InferRequestParser:
    """What an inference request of one model looks like, worked out once."""

    def __init__(self, features: FeatureSet, task: Task, max_rows: int) -> None:
        self._columns = features.request
        self._index = {column.name: i for i, column in enumerate(features.request)}
        self._required = required_columns(features)
        self._outputs = _OUTPUTS[task.kind]
        self._max_rows = max_rows
        self._scalar = not any(column.shape for column in features.request)
        self._layouts: dict[tuple[tuple[str, str, int], ...], _Layout] = {}

    def read(self, body: bytes, header_length: str | None, default_id: str) -> InferRequest:
        """A request from its bytes; ``header_length`` as in the header of that name. Raises as ``parse`` does."""
        head, tail = binary_tensors.split_body(body, header_length)
        return self.parse(parse_json_object(head), default_id, tail)

    def parse(self, body: Mapping[str, Any], default_id: str, tail: memoryview | None = None) -> InferRequest:
        """A request from its JSON part and the tensors that follow it.

        Raises RequestError naming the field, with status 413 beyond the rows that are answered at once. Values of the
        columns are checked when rows are put together (rows.Assembler).
        """
        request = validate_request_id(body["id"]) if body.get("id") is not None else default_id
        inputs = body.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise RequestError("expected a list of input tensors", field="inputs")
        rows = self._familiar(inputs) if tail is None and self._scalar else None
        if rows is None:
            rows = self._checked(inputs if tail is None else binary_tensors.attach_tensors(inputs, tail))
        wanted, raw = self._wanted(body)
        return InferRequest(request, rows, wanted, raw)

    def _familiar(self, inputs: Sequence[Any]) -> RequestRows | None:
        """The rows of inputs whose names, datatypes and shapes were checked in an earlier request; else None.

        To check them takes several times as long as to parse the JSON they come in.
        """
        try:
            layout = self._layouts.get(_looks(inputs))
            if layout is None:
                return None
            data = [inputs[i]["data"] for i in layout.order]
        except (KeyError, TypeError, ValueError):
            return None
        for values in data:
            if type(values) is not list or len(values) != layout.rows or type(values[0]) is list:
                return None
        for at, kind in enumerate(layout.strict):
            if kind is not None:
                data[at] = self._strictly(self._columns[at], data[at], layout.fields[at], kind)
        return RequestRows(layout.rows, tuple(data), layout.fields)

    def _checked(self, inputs: Sequence[Any]) -> RequestRows:
        tensors, order = self._by_column(inputs)
        size = self._row_count(tensors, order)
        fields = tuple(f"inputs[{i}].data" for i in order)
        values = tuple(
            self._values(column, tensor, f"inputs[{i}]", size)
            for column, tensor, i in zip(self._columns, tensors, order, strict=True)
        )
        if self._scalar and all(len(tensor["shape"]) == 1 for tensor in tensors):
            kinds = zip(self._columns, (tensor["datatype"] for tensor in tensors), strict=True)
            strict = tuple(_STRICT.get(datatype) if column.kind == "number" else None for column, datatype in kinds)
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[_looks(inputs)] = _Layout(size, tuple(order), fields, strict)
        return RequestRows(size, values, fields)

    def _by_column(self, inputs: Sequence[Any]) -> tuple[list[Mapping[str, Any]], list[int]]:
        """Tensors in the order of the columns, and where in ``inputs`` each stood."""
        places: list[int | None] = [None] * len(self._columns)
        for i, tensor in enumerate(inputs):
            name = tensor.get("name") if isinstance(tensor, dict) else None
            at = self._index.get(name) if isinstance(name, str) else None
            if at is None:
                known = ", ".join(sorted(self._index))
                raise RequestError(f"unknown input; the model takes {known}", field=f"inputs[{i}].name")
            if places[at] is not None:
                raise RequestError(f"input {name!r} is given twice", field=f"inputs[{i}].name")
            places[at] = i
        order = [place for place in places if place is not None]
        if len(order) < len(places):
            missing = [c.name for c, place in zip(self._columns, places, strict=True) if place is None]
            raise RequestError(f"missing {', '.join(missing)}", field="inputs", todo="null stands for an unknown value")
        return [inputs[i] for i in order], order

    def _row_count(self, tensors: Sequence[Mapping[str, Any]], order: Sequence[int]) -> int:
        counts = [_rows_of(tensor, i) for tensor, i in zip(tensors, order, strict=True)]
        rows = max(counts)
        if min(counts) != rows:
            field = f"inputs[{order[counts.index(rows)]}].shape"
            raise RequestError(f"inputs differ in rows: {sorted(set(counts))}", field=field)
        if rows > self._max_rows:
            what = f"{rows} rows, at most {self._max_rows} are answered at once"
            raise RequestError(what, field="inputs", status=413)
        if rows < 1:
            raise RequestError("no rows", field=f"inputs[{order[0]}].shape")
        return rows

    def _values(self, column: Column, tensor: Mapping[str, Any], field: str, rows: int) -> ColumnValues:
        shape = tensor["shape"]
        if shape != [rows, *column.shape] and (column.shape or shape != [rows, 1]):
            raise RequestError(f"shape {shape}, expected {[rows, *column.shape]}", field=f"{field}.shape")
        datatype = tensor.get("datatype")
        if datatype not in _DATATYPES[column.kind]:
            expected = " or ".join(_DATATYPES[column.kind])
            raise RequestError(f"datatype {str(datatype)[:20]!r}, expected {expected}", field=f"{field}.datatype")
        values = _data(tensor.get("data"), rows, column, f"{field}.data")
        if isinstance(values, pa.Array):
            return convert_column(column, values, f"{field}.data", required=column.name in self._required)
        if column.kind == "number" and datatype in _STRICT:
            return self._strictly(column, values, f"{field}.data", _STRICT[datatype])
        return values

    def _strictly(self, column: Column, values: ColumnValues, field: str, kind: pa.DataType) -> pa.Array:
        return build_column(column, values, field, kind=kind, required=column.name in self._required)

    def _wanted(self, body: Mapping[str, Any]) -> tuple[tuple[str, ...], frozenset[str]]:
        asked, everything = body.get("outputs"), _flag(body, "binary_data_output")
        if asked is None:
            return (), frozenset(self._outputs) if everything else frozenset()
        if not isinstance(asked, list):
            raise RequestError("expected a list of outputs", field="outputs")
        for i, output in enumerate(asked):
            if not isinstance(output, dict) or output.get("name") not in self._outputs:
                known = ", ".join(self._outputs)
                raise RequestError(f"unknown output; the model gives {known}", field=f"outputs[{i}].name")
        raw = (output["name"] for output in asked if _flag(output, "binary_data", everything))
        return tuple(output["name"] for output in asked), frozenset(raw)


def encode_infer_response(
    request: InferRequest, model: str, version: str, variant: Variant, task: Task, scores: np.ndarray
) -> EncodedBody:
    """The response body. ``scores`` as contracts.Task says."""
    kept = [output for output in output_tensors(task, scores) if not request.outputs or output.name in request.outputs]
    tails = {
        output.name: binary_tensors.encode_tensor(output.values) for output in kept if output.name in request.binary
    }
    head = to_json(
        {
            "model_name": model,
            "model_version": version,
            "id": request.id,
            "parameters": {"variant": variant},
            "outputs": [_described(output, tails.get(output.name)) for output in kept],
        }
    )
    return EncodedBody(head + b"".join(tails.values()), len(head)) if tails else EncodedBody(head)


def output_tensors(task: Task, scores: np.ndarray) -> list[OutputTensor]:
    """Scores as output tensors: ``score``, ``value``, or ``probabilities`` and ``label``."""
    if task.kind != "multiclass":
        return [OutputTensor(_OUTPUTS[task.kind][0], "FP32", [len(scores)], scores)]
    return [
        OutputTensor("probabilities", "FP32", list(scores.shape), scores),
        OutputTensor("label", "BYTES", [len(scores)], predicted_classes(task, scores)),
    ]


def predicted_classes(task: Task, scores: np.ndarray) -> list[str]:
    """Names of the most probable classes, [n]."""
    return [task.classes[i] for i in scores.argmax(axis=1)]


def describe_model(model: str, versions: Sequence[str], features: FeatureSet, task: Task) -> dict[str, Any]:
    """Model metadata with the request columns as inputs; -1 is the row axis."""
    example = output_tensors(task, np.zeros((1, task.outputs) if task.kind == "multiclass" else 1, np.float32))
    return {
        "name": model,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [{"name": c.name, "datatype": _DECLARED[c.kind], "shape": [-1, *c.shape]} for c in features.request],
        "outputs": [{"name": o.name, "datatype": o.datatype, "shape": [-1, *o.shape[1:]]} for o in example],
    }


def _looks(inputs: Sequence[Any]) -> tuple[tuple[str, str, int], ...]:
    """Names, datatypes and rows of tensors with one axis. Raises TypeError, KeyError or ValueError for others."""
    looks = tuple([(tensor["name"], tensor["datatype"], *tensor["shape"]) for tensor in inputs])
    for look in looks:
        # True and 1.0 would pass for a 1.
        if len(look) != 3 or type(look[2]) is not int:
            raise ValueError
    return looks


def _described(output: OutputTensor, tail: bytes | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if tail is not None:
        return told | {"parameters": {binary_tensors.BINARY_DATA_SIZE: len(tail)}}
    return told | {"data": output.values.ravel().tolist() if isinstance(output.values, np.ndarray) else output.values}


def _rows_of(tensor: Mapping[str, Any], index: int) -> int:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise RequestError("expected a list of sizes, rows first", field=f"inputs[{index}].shape")
    rows: int = shape[0]
    return rows


def _data(data: object, rows: int, column: Column, field: str) -> ColumnValues:
    """The values by row, from flat or nested ``data``."""
    if isinstance(data, pa.Array):
        return _exactly(data, rows, column, field)
    if not isinstance(data, list):
        raise RequestError("expected a list of values", field=field)
    if not column.shape:
        nested = bool(data) and all(isinstance(value, list) for value in data)
        return _exactly(list(chain.from_iterable(data)) if nested else data, rows, column, field)
    if len(data) == rows and all(isinstance(row, list) for row in data):
        return data
    if any(isinstance(value, list) for value in data):
        raise RequestError(f"{len(data)} entries for {rows} rows", field=field)
    size = len(_exactly(data, rows, column, field)) // rows
    return [data[row * size : (row + 1) * size] for row in range(rows)]


def _exactly(values: ColumnValues, rows: int, column: Column, field: str) -> ColumnValues:
    expected = rows * int(np.prod(column.shape, dtype=np.int64)) if column.shape else rows
    if len(values) != expected:
        shape = f" of shape {list(column.shape)}" if column.shape else ""
        raise RequestError(f"{len(values)} values for {rows} rows{shape}", field=field)
    return values


def _flag(value: Mapping[str, Any], name: str, default: bool = False) -> bool:
    parameters = value.get("parameters")
    told = parameters.get(name, default) if isinstance(parameters, dict) else default
    return told is True
