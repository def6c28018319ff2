"""True labels of answered rows: ``{"labels": [{"id": row id, "label": …, "time": …}, …]}`` to typed rows. Pure.

Next stops of a label: ingress/rest_handlers, telemetry/reporter, telemetry/log_writer, analysis/evidence_collector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.errors import RequestError
from cluster.values import Task
from deployments.protocol.arrow_columns import MAX_NUMBER, TIMESTAMP, parse_timestamp

# A row id is a request id (200 characters) and, for several rows, its index.
_MAX_ID_CHARS = 220


def parse_feedback(body: Mapping[str, Any], task: Task, max_rows: int) -> pa.Table:
    """Parse a feedback request.

    Args:
        body: Its JSON object.
        task: The model's task, which decides what a label may be.
        max_rows: Most labels of one request.

    Returns:
        Columns ``id`` string, ``label`` float64 (a class by its index, see ``cluster.values.Task``), and ``time``,
        timestamp or null.

    Raises:
        RequestError: 400 naming the field, or 413 beyond ``max_rows``.
    """
    labels = body.get("labels")
    if not isinstance(labels, list) or not labels:
        raise RequestError("request.labels_missing", field="labels")
    if len(labels) > max_rows:
        raise RequestError("request.too_many_rows", field="labels", rows=len(labels), limit=max_rows)
    rows = [_label(entry, task, f"labels[{i}]") for i, entry in enumerate(labels)]
    ids, values, times = zip(*rows, strict=True)
    return pa.table({"id": pa.array(ids), "label": pa.array(values, pa.float64()), "time": pa.array(times, TIMESTAMP)})


def _label(entry: object, task: Task, field: str) -> tuple[str, float, int | None]:
    if not isinstance(entry, dict):
        raise RequestError("request.malformed_label", field=field, expected="an object with id and label")
    row = entry.get("id")
    if not isinstance(row, str) or not 0 < len(row) <= _MAX_ID_CHARS:
        raise RequestError("request.malformed_label", field=f"{field}.id", expected="the row id of a prediction")
    time = entry.get("time")
    return (
        row,
        _label_value(entry.get("label"), task, f"{field}.label"),
        None if time is None else parse_timestamp(time, f"{field}.time"),
    )


def _label_value(value: object, task: Task, field: str) -> float:
    if task.kind == "multiclass":
        if isinstance(value, str) and value in task.classes:
            return float(task.classes.index(value))
        expected = f"a class: one of {', '.join(task.classes)}"
        raise RequestError("request.wrong_label", field=field, expected=expected)
    number = value if isinstance(value, bool | int | float) and abs(value) <= MAX_NUMBER else math.nan
    if number in (0, 1) or (task.kind == "regression" and not math.isnan(number)):
        return float(number)
    expected = "0, 1, false or true" if task.kind == "binary" else "a number"
    raise RequestError("request.wrong_label", field=field, expected=expected)
