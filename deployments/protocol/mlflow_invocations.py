"""MLflow's ``/invocations``: its four JSON shapes to rows, scores to ``predictions``. Pure.

{"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], …]}}
{"dataframe_records": [{"a": 1, "b": "x"}, …]}
{"instances": [{"a": 1, "b": "x"}, …]}          or a list of values, for a model with one request column
{"inputs": {"a": [1, …], "b": ["x", …]}}        or a list of values, as above
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from cluster.errors import RequestError
from cluster.values import Task
from deployments.protocol.arrow_columns import wrong_shape
from deployments.protocol.open_inference import predicted_classes
from deployments.protocol.request_rows import RequestRows
from features.attributions.explanation import RowExplanation
from features.definitions import FeatureSet

ColumnLists = dict[str, list[Any]]


def parse_invocation(body: Mapping[str, Any], features: FeatureSet, max_rows: int) -> RequestRows:
    """Parse an invocation.

    Args:
        body: Its JSON object.
        features: The model's features, whose request columns the body must hold.
        max_rows: Most rows of one request.

    Raises:
        RequestError: 400 naming the field, or 413 beyond ``max_rows``.
    """
    shapes = [shape for shape in _SHAPES if shape in body]
    if len(shapes) != 1:
        raise wrong_shape("body", f"exactly one of {', '.join(_SHAPES)}")
    shape = shapes[0]
    names = [column.name for column in features.request]
    values = _SHAPES[shape](body[shape], names, shape)
    _check_columns(values, names, shape, max_rows)
    fields = tuple(f"{shape}.{name}" for name in names)
    return RequestRows(len(values[names[0]]), tuple(values[name] for name in names), fields)


def encode_invocation_response(
    version: str, task: Task, scores: np.ndarray, explanations: Sequence[RowExplanation] = ()
) -> bytes:
    """Encode the response body: one number per row, or for multiclass the class and its probabilities.

    Args:
        version: Version that answered.
        task: The model's task.
        scores: Its scores.
        explanations: Of each row, where the request asks for them.
    """
    predictions: list[Any] = scores.tolist()
    if task.kind == "multiclass":
        labels = predicted_classes(task, scores)
        predictions = [{"label": label, "probabilities": row} for label, row in zip(labels, predictions, strict=True)]
    explained = {"explanations": explanations} if explanations else {}
    return to_json({"predictions": predictions, "model_version": version, **explained})


def _check_columns(values: ColumnLists, names: list[str], shape: str, max_rows: int) -> None:
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if missing or unknown:
        raise _wrong_columns(missing, unknown, shape)
    lengths = {len(column) for column in values.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise RequestError("request.unequal_columns", field=shape, rows=sorted(lengths))
    if max(lengths) > max_rows:
        raise RequestError("request.too_many_rows", field=shape, rows=max(lengths), limit=max_rows)


def _wrong_columns(missing: list[str], unknown: list[str], field: str) -> RequestError:
    unknown = [name[:40] for name in unknown[:5]]
    return RequestError("request.wrong_columns", field=field, missing=missing, unknown=unknown)


def _split(value: object, names: list[str], field: str) -> ColumnLists:
    columns = value.get("columns") if isinstance(value, dict) else None
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise wrong_shape(f"{field}.columns", "a list of column names")
    if not isinstance(data, list):
        raise wrong_shape(f"{field}.data", "a list of rows")
    for i, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise wrong_shape(f"{field}.data[{i}]", f"a list of {len(columns)} values")
    return {name: [row[i] for row in data] for i, name in enumerate(columns)}


def _records(value: object, names: list[str], field: str) -> ColumnLists:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise wrong_shape(field, "a list of at least one object")
    for i, row in enumerate(value):
        missing = [name for name in names if name not in row]
        if missing or len(row) != len(names):
            raise _wrong_columns(missing, [str(name) for name in row if name not in names], f"{field}[{i}]")
    return {name: [row[name] for row in value] for name in names}


def _instances(value: object, names: list[str], field: str) -> ColumnLists:
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return _records(value, names, field)
    return _only_column(value, names, field)


def _inputs(value: object, names: list[str], field: str) -> ColumnLists:
    if not isinstance(value, dict):
        return _only_column(value, names, field)
    for name, column in value.items():
        if not isinstance(column, list):
            raise wrong_shape(f"{field}.{name[:40]}", "a list of values")
    return value


def _only_column(value: object, names: list[str], field: str) -> ColumnLists:
    if len(names) != 1 or not isinstance(value, list):
        raise wrong_shape(field, f"values by column name: {', '.join(names)}")
    return {names[0]: value}


_SHAPES: dict[str, Callable[[object, list[str], str], ColumnLists]] = {
    "dataframe_split": _split,
    "dataframe_records": _records,
    "instances": _instances,
    "inputs": _inputs,
}
