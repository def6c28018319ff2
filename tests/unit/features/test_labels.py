"""Labels of training rows: what the task does not have is refused, and never trained on in silence."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from cluster.errors import DataError
from cluster.values import Task
from features.builders import number
from features.definitions import FeatureSet
from features.offline import training_frame
from features.sources.source import Examples
from features.split import HashSplit

FEATURES = FeatureSet(name="set", request=number("x"))
EXAMPLES = Examples(source="orders", id="n", label=pl.col("y"), label_known_at="at")
BINARY = Task(kind="binary", label="y")
CLASSES = Task(kind="multiclass", label="y", classes=("low", "high"))


def _labels(task: Task, values: list[object]) -> list[float]:
    at = [datetime(2024, 1, 1, tzinfo=UTC)] * len(values)
    rows = pl.DataFrame({"n": range(len(values)), "x": [0.5] * len(values), "y": values, "at": at})
    found: list[float] = training_frame.build_examples(rows, FEATURES, EXAMPLES, task, None)["label"].to_list()
    return found


def test_classes_become_positions_and_null_is_no_example() -> None:
    assert _labels(CLASSES, ["high", None, "low"]) == [1.0, 0.0]
    assert _labels(CLASSES, [1, 0]) == [1.0, 0.0]
    assert _labels(BINARY, [True, False, None]) == [1.0, 0.0]
    assert _labels(Task(kind="regression", label="y"), [3.0, 4.5]) == [3.0, 4.5]


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (
            CLASSES,
            ["low", "mid", "mid"],
            r"source 'orders' has rows with the label 'mid', which is not one of low, high",
        ),
        (CLASSES, [0, 2], r"the label 2\.0, which is not a position in 2 classes"),
        (BINARY, [0.0, 0.5], r"the label 0\.5, which is not 0 or 1; mend Task or Examples"),
        (BINARY, ["low", "high"], "the label of source 'orders' is String, and binary needs numbers"),
    ],
)
def test_a_label_that_the_task_does_not_have_is_named(task: Task, values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _labels(task, values)


def test_classes_in_another_order_are_another_frame() -> None:
    """Their positions are what is stored: the frame that was made before would have all labels wrong."""
    turned = CLASSES.model_copy(update={"classes": ("high", "low")})
    assert _key(CLASSES) != _key(turned)
    assert _key(BINARY) == _key(BINARY)


def _key(task: Task) -> str:
    return training_frame._key(FEATURES, EXAMPLES, task, HashSplit(), {}, None)
