"""Labels of training rows: labels that do not fit the task are refused."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from cluster.errors import DataError
from cluster.values import Task
from features.builders import number
from features.definitions import FeatureSet
from features.offline import example_rows
from features.sources.source import Examples
from tests.factories.errors import raises

FEATURES = FeatureSet(name="set", request=number("x"))
EXAMPLES = Examples(source="orders", id="n", label=pl.col("y"), label_known_at="at")
BINARY = Task(kind="binary", label="y")
CLASSES = Task(kind="multiclass", label="y", classes=("low", "high"))


def _labels(task: Task, values: list[object]) -> list[float]:
    at = [datetime(2024, 1, 1, tzinfo=UTC)] * len(values)
    rows = pl.DataFrame({"n": range(len(values)), "x": [0.5] * len(values), "y": values, "at": at})
    labels: list[float] = example_rows.build_examples(rows, FEATURES, EXAMPLES, task, None)["label"].to_list()
    return labels


def test_build_examples_converts_classes_to_positions_and_drops_null() -> None:
    assert _labels(CLASSES, ["high", None, "low"]) == [1.0, 0.0]
    assert _labels(CLASSES, [1, 0]) == [1.0, 0.0]
    assert _labels(BINARY, [True, False, None]) == [1.0, 0.0]
    assert _labels(Task(kind="regression", label="y"), [3.0, 4.5]) == [3.0, 4.5]


@pytest.mark.parametrize(
    ("task", "values", "code", "fields"),
    [
        (CLASSES, ["low", "mid", "mid"], "data.unknown_label", {"label": "mid"}),
        (CLASSES, [0, 2], "data.unknown_label", {"label": 2.0}),
        (BINARY, [0.0, 0.5], "data.unknown_label", {"label": 0.5}),
        (BINARY, ["low", "high"], "data.label_type", {"type": "String", "task": "binary"}),
    ],
)
def test_build_examples_with_label_that_does_not_fit_the_task_is_refused(
    task: Task, values: list[object], code: str, fields: dict
) -> None:
    with raises(DataError, code, source="orders", **fields):
        _labels(task, values)
