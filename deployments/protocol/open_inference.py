"""Open Inference Protocol v2 over REST: requests to rows, scores to responses. Pure.

https://github.com/kserve/open-inference-protocol, with the binary tensor extension (binary_tensors.py). ``data`` may be
flat or nested, and null stands for a missing number or category. Feedback names rows by their row ids: the request id
when there is one row, else ``<request id>/0`` and so on.
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
from deployments.protocol.arrow_columns import build_column, convert_column, required_columns, wrong_shape
from deployments.protocol.explain_requests import ExplainOption, explain_option
from deployments.protocol.request_rows import ColumnValues, RequestRows
from features.attributions.explanation import RowExplanation
from features.definitions import Column, FeatureSet

PLATFORM = "rayloop_onnx"

REQUEST_ID = "[!-~]{1,200}"
"""Pattern of request ids: printable ASCII without spaces."""
INTEGERS = {
    f"{sign}INT{bits}": getattr(pa, f"{sign.lower()}int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)
}
"""Arrow type of each integer datatype."""
_REQUEST_ID = re.compile(REQUEST_ID)
_STRICT = {"BOOL": pa.bool_(), **INTEGERS}
_DATATYPES: dict[str, tuple[str, ...]] = {
    "number": ("FP32", "FP64", *_STRICT),
    "category": ("BYTES",),
    "timestamp": ("BYTES", "INT64"),
    "tensor": ("FP32", "FP64", *INTEGERS),
}
_OUTPUTS = {"binary": ("score",), "multiclass": ("probabilities", "label"), "regression": ("value",)}
_MAX_LAYOUTS = 256
DECLARED = {"number": "FP64", "category": "BYTES", "timestamp": "BYTES", "tensor": "FP32"}


class OutputTensor(NamedTuple):
    """One tensor of a response."""

    name: str
    datatype: str
    shape: list[int]
    values: np.ndarray | list[str]


class InferRequest(NamedTuple):
    """A parsed request."""

    id: str
    rows: RequestRows
    outputs: tuple[str, ...] = ()
    """Names of the requested outputs; empty: all."""
    binary: frozenset[str] = frozenset()
    """Outputs requested in binary form."""
    explain: ExplainOption = None


class _Layout(NamedTuple):
    """Names, datatypes and shapes of inputs that have been checked once."""

    rows: int
    order: tuple[int, ...]
    """By column, the index of its tensor."""
    fields: tuple[str, ...]
    strict: tuple[pa.DataType | None, ...]
    """By column, the declared type where it is stricter than the column."""


class EncodedBody(NamedTuple):
    """A response body; ``header_length`` is the length of its JSON part when binary tensors follow."""

    body: bytes
    header_length: int | None = None


def parse_json_object(body: bytes | memoryview) -> dict[str, Any]:
    """Parse a body as a JSON object. Raises RequestError if it is not one."""
    try:
        value = from_json(bytes(body), cache_strings=False)
    except ValueError as error:
        raise RequestError("request.malformed_json", field="body", reason=str(error)) from error
    if not isinstance(value, dict):
        raise RequestError("request.malformed_json", field="body", reason=f"it is a {type(value).__name__}")
    return value


def validate_request_id(value: object, field: str = "id") -> str:
    """Check a request id: 1 to 200 printable ASCII characters without spaces, so that it fits in a header.

    Raises:
        RequestError: It is something else; names ``field``.
    """
    if isinstance(value, str) and _REQUEST_ID.fullmatch(value):
        return value
    raise RequestError("request.malformed_id", field=field)


class InferRequestParser:
    """Parses the inference requests of one model.

    Args:
        features: The model's features, whose request columns are its inputs.
        task: The model's task, which decides its outputs.
        max_rows: Most rows of one request.
    """

    def __init__(self, features: FeatureSet, task: Task, max_rows: int) -> None:
        self._columns = features.request
        self._index = {column.name: i for i, column in enumerate(features.request)}
        self._required = required_columns(features)
        self._outputs = _OUTPUTS[task.kind]
        self._max_rows = max_rows
        self._scalar = not any(column.shape for column in features.request)
        self._layouts: dict[tuple[tuple[str, str, int], ...], _Layout] = {}

    def parse_bytes(self, body: bytes, header_length: str | None, default_id: str) -> InferRequest:
        """Parse a request's body; ``header_length`` is the value of JSON_LENGTH_HEADER. Raises as ``parse`` does."""
        head, tail = binary_tensors.split_body(body, header_length)
        return self.parse(parse_json_object(head), default_id, tail)

    def parse(self, body: Mapping[str, Any], default_id: str, tail: memoryview | None = None) -> InferRequest:
        """Parse a request. RowAssembler checks the values of its columns later.

        Args:
            body: The JSON object.
            default_id: The request's id when the body has none.
            tail: Binary tensors behind the JSON part.

        Raises:
            RequestError: 400 naming the field, or 413 beyond ``max_rows``.
        """
        request = validate_request_id(body["id"]) if body.get("id") is not None else default_id
        inputs = body.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise RequestError("request.inputs_missing", field="inputs")
        rows = self._rows_by_cached_layout(inputs) if tail is None and self._scalar else None
        if rows is None:
            rows = self._check_inputs(inputs if tail is None else binary_tensors.attach_tensors(inputs, tail))
        outputs, binary = self._requested_outputs(body)
        return InferRequest(request, rows, outputs, binary, explain_option(body.get("parameters"), "parameters"))

    def _rows_by_cached_layout(self, inputs: Sequence[Any]) -> RequestRows | None:
        """The rows of inputs whose names, datatypes and shapes an earlier request had; else None.

        Checking them takes several times as long as parsing the JSON they come in.
        """
        try:
            layout = self._layouts.get(_layout_key(inputs))
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
                data[at] = self._build_strict(self._columns[at], data[at], layout.fields[at], kind)
        return RequestRows(layout.rows, tuple(data), layout.fields)

    def _check_inputs(self, inputs: Sequence[Any]) -> RequestRows:
        tensors, order = self._by_column(inputs)
        size = self._row_count(tensors, order)
        fields = tuple(f"inputs[{i}].data" for i in order)
        values = tuple(
            self._column_values(column, tensor, f"inputs[{i}]", size)
            for column, tensor, i in zip(self._columns, tensors, order, strict=True)
        )
        if self._scalar and all(len(tensor["shape"]) == 1 for tensor in tensors):
            kinds = zip(self._columns, (tensor["datatype"] for tensor in tensors), strict=True)
            strict = tuple(_STRICT.get(datatype) if column.kind == "number" else None for column, datatype in kinds)
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[_layout_key(inputs)] = _Layout(size, tuple(order), fields, strict)
        return RequestRows(size, values, fields)

    def _by_column(self, inputs: Sequence[Any]) -> tuple[list[Mapping[str, Any]], list[int]]:
        """Tensors in the order of the columns, and the index of each in ``inputs``."""
        indices: list[int | None] = [None] * len(self._columns)
        for i, tensor in enumerate(inputs):
            name = tensor.get("name") if isinstance(tensor, dict) else None
            at = self._index.get(name) if isinstance(name, str) else None
            if at is None:
                raise RequestError("request.unknown_input", field=f"inputs[{i}].name", inputs=sorted(self._index))
            if indices[at] is not None:
                raise RequestError("request.duplicate_input", field=f"inputs[{i}].name", input=name)
            indices[at] = i
        order = [index for index in indices if index is not None]
        if len(order) < len(indices):
            missing = [c.name for c, index in zip(self._columns, indices, strict=True) if index is None]
            raise RequestError("request.input_missing", field="inputs", missing=missing)
        return [inputs[i] for i in order], order

    def _row_count(self, tensors: Sequence[Mapping[str, Any]], order: Sequence[int]) -> int:
        counts = [_first_axis(tensor, i) for tensor, i in zip(tensors, order, strict=True)]
        rows = max(counts)
        if min(counts) != rows:
            field = f"inputs[{order[counts.index(rows)]}].shape"
            raise RequestError("request.unequal_columns", field=field, rows=sorted(set(counts)))
        if rows > self._max_rows:
            raise RequestError("request.too_many_rows", field="inputs", rows=rows, limit=self._max_rows)
        if rows < 1:
            raise RequestError("request.no_rows", field=f"inputs[{order[0]}].shape")
        return rows

    def _column_values(self, column: Column, tensor: Mapping[str, Any], field: str, rows: int) -> ColumnValues:
        shape = tensor["shape"]
        if shape != [rows, *column.shape] and (column.shape or shape != [rows, 1]):
            raise wrong_shape(f"{field}.shape", f"shape {[rows, *column.shape]}, got {shape}")
        datatype = tensor.get("datatype")
        if datatype not in _DATATYPES[column.kind]:
            raise binary_tensors.wrong_datatype(field, " or ".join(_DATATYPES[column.kind]), datatype)
        values = _values_by_row(tensor.get("data"), rows, column, f"{field}.data")
        if isinstance(values, pa.Array):
            return convert_column(column, values, f"{field}.data", required=column.name in self._required)
        if column.kind == "number" and datatype in _STRICT:
            return self._build_strict(column, values, f"{field}.data", _STRICT[datatype])
        return values

    def _build_strict(self, column: Column, values: ColumnValues, field: str, kind: pa.DataType) -> pa.Array:
        return build_column(column, values, field, kind=kind, required=column.name in self._required)

    def _requested_outputs(self, body: Mapping[str, Any]) -> tuple[tuple[str, ...], frozenset[str]]:
        """Names of the requested outputs (empty: all), and of those requested in binary form."""
        outputs, all_binary = body.get("outputs"), _flag(body, "binary_data_output")
        if outputs is None:
            return (), frozenset(self._outputs) if all_binary else frozenset()
        if not isinstance(outputs, list):
            raise RequestError(
                "request.wrong_type", field="outputs", expected="a list of outputs", value=type(outputs).__name__
            )
        for i, output in enumerate(outputs):
            if not isinstance(output, dict) or output.get("name") not in self._outputs:
                raise RequestError("request.unknown_output", field=f"outputs[{i}].name", outputs=list(self._outputs))
        binary = (output["name"] for output in outputs if _flag(output, "binary_data", all_binary))
        return tuple(output["name"] for output in outputs), frozenset(binary)


def encode_infer_response(
    request: InferRequest,
    model: str,
    version: str,
    variant: Variant,
    task: Task,
    scores: np.ndarray,
    explanations: Sequence[RowExplanation] = (),
) -> EncodedBody:
    """Encode the response body.

    Args:
        request: The parsed request; its ``outputs`` and ``binary`` select the tensors and their form.
        model: Name of the model.
        version: Version that answered.
        variant: Variant that answered.
        task: The model's task.
        scores: Its scores, as ``cluster.values.Task`` describes them.
        explanations: Of each row, where the request asks for them.
    """
    tensors = [
        tensor for tensor in output_tensors(task, scores) if not request.outputs or tensor.name in request.outputs
    ]
    tails = {
        tensor.name: binary_tensors.encode_tensor(tensor.values) for tensor in tensors if tensor.name in request.binary
    }
    head = to_json(
        {
            "model_name": model,
            "model_version": version,
            "id": request.id,
            "parameters": {"variant": variant},
            "outputs": [_tensor_head(tensor, tails.get(tensor.name)) for tensor in tensors],
            **({"explanations": explanations} if explanations else {}),
        }
    )
    return EncodedBody(head + b"".join(tails.values()), len(head)) if tails else EncodedBody(head)


def output_tensors(task: Task, scores: np.ndarray) -> list[OutputTensor]:
    """Scores as the task's output tensors: ``score``, ``value``, or ``probabilities`` and ``label``."""
    if task.kind != "multiclass":
        return [OutputTensor(_OUTPUTS[task.kind][0], "FP32", [len(scores)], scores)]
    return [
        OutputTensor("probabilities", "FP32", list(scores.shape), scores),
        OutputTensor("label", "BYTES", [len(scores)], predicted_classes(task, scores)),
    ]


def predicted_classes(task: Task, scores: np.ndarray) -> list[str]:
    """Names of the most probable classes, [n], for probabilities [n, classes]."""
    return [task.classes[i] for i in scores.argmax(axis=1)]


def describe_model(model: str, versions: Sequence[str], features: FeatureSet, task: Task) -> dict[str, Any]:
    """The model's metadata, with the request columns as inputs; -1 stands for the row axis.

    Args:
        model: Name of the model.
        versions: The versions that answer requests.
        features: Feature set of the champion.
        task: Task of the model, which sets the outputs.
    """
    example = output_tensors(task, np.zeros((1, task.outputs) if task.kind == "multiclass" else 1, np.float32))
    return {
        "name": model,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [{"name": c.name, "datatype": DECLARED[c.kind], "shape": [-1, *c.shape]} for c in features.request],
        "outputs": [{"name": o.name, "datatype": o.datatype, "shape": [-1, *o.shape[1:]]} for o in example],
    }


def row_tensor(column: Column, value: Any, datatype: str) -> dict[str, Any]:
    """Build the input tensor of a request with one row.

    Args:
        column: The request column.
        value: Its value; a tensor's as a flat list.
        datatype: The protocol's datatype.
    """
    data = value if column.kind == "tensor" else [value]
    return {"name": column.name, "shape": [1, *column.shape], "datatype": datatype, "data": data}


def _layout_key(inputs: Sequence[Any]) -> tuple[tuple[str, str, int], ...]:
    """Names, datatypes and rows of tensors with one axis. Raises TypeError, KeyError or ValueError for others."""
    key = tuple([(tensor["name"], tensor["datatype"], *tensor["shape"]) for tensor in inputs])
    for part in key:
        # True and 1.0 are equal to 1.
        if len(part) != 3 or type(part[2]) is not int:
            raise ValueError
    return key


def _tensor_head(tensor: OutputTensor, tail: bytes | None) -> dict[str, Any]:
    """The JSON of an output; ``tail`` holds its values when they are in binary form."""
    head: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tail is not None:
        return head | {"parameters": {binary_tensors.BINARY_DATA_SIZE: len(tail)}}
    return head | {"data": tensor.values.ravel().tolist() if isinstance(tensor.values, np.ndarray) else tensor.values}


def _first_axis(tensor: Mapping[str, Any], index: int) -> int:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise wrong_shape(f"inputs[{index}].shape", "a list of sizes, rows first")
    return shape[0]


def _values_by_row(data: object, rows: int, column: Column, field: str) -> ColumnValues:
    """The values of each row, from flat or nested ``data``."""
    if isinstance(data, pa.Array):
        return _check_count(data, rows, column, field)
    if not isinstance(data, list):
        raise RequestError("request.wrong_type", field=field, expected="a list of values", value=type(data).__name__)
    if not column.shape:
        nested = bool(data) and all(isinstance(value, list) for value in data)
        return _check_count(list(chain.from_iterable(data)) if nested else data, rows, column, field)
    if len(data) == rows and all(isinstance(row, list) for row in data):
        return data
    if any(isinstance(value, list) for value in data):
        raise wrong_shape(field, f"{rows} rows, got {len(data)} entries")
    size = len(_check_count(data, rows, column, field)) // rows
    return [data[row * size : (row + 1) * size] for row in range(rows)]


def _check_count(values: ColumnValues, rows: int, column: Column, field: str) -> ColumnValues:
    expected = rows * int(np.prod(column.shape, dtype=np.int64)) if column.shape else rows
    if len(values) != expected:
        shape = f" of shape {list(column.shape)}" if column.shape else ""
        raise wrong_shape(field, f"{rows} rows{shape}, got {len(values)} values")
    return values


def _flag(value: Mapping[str, Any], name: str, default: bool = False) -> bool:
    parameters = value.get("parameters")
    flag = parameters.get(name, default) if isinstance(parameters, dict) else default
    return flag is True
