"""The key of a training frame: what changes its rows changes it."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from cluster.values import Task
from features.builders import number
from features.definitions import FeatureSet
from features.offline import training_frame
from features.sources.source import Examples
from features.split import HashSplit, Split, TimeSplit

FEATURES = FeatureSet(name="set", request=number("x"))
EXAMPLES = Examples(source="orders", id="n", label=pl.col("y"), label_known_at="at")
BINARY = Task(kind="binary", label="y")
HASH = HashSplit()
BY_TIME = TimeSplit(
    start=datetime(2024, 1, 1, tzinfo=UTC),
    validate_from=datetime(2024, 2, 1, tzinfo=UTC),
    test_from=datetime(2024, 3, 1, tzinfo=UTC),
    end=datetime(2024, 4, 1, tzinfo=UTC),
)
CLASSES = Task(kind="multiclass", label="y", classes=("low", "high"))


def test_frame_key_depends_on_order_of_classes() -> None:
    """Frames store positions: the existing frame would have wrong labels."""
    turned = CLASSES.model_copy(update={"classes": ("high", "low")})
    assert _key(CLASSES) != _key(turned)
    assert _key(BINARY) == _key(BINARY)


def test_frame_key_depends_on_groups_and_is_that_of_earlier_releases_for_a_hash_split_without() -> None:
    # Of 0.2.0. A frame that a time split built then has rows that are purged now, and gets another key.
    assert _key(BINARY) == "03f2de8702712679010b1e9352242ce76fc6e2bed97688941b61a897f1e8a820"
    assert _key(BINARY, HashSplit(group=("n",))) != _key(BINARY)
    assert _key(BINARY, BY_TIME) != "30107f211a746753abe1dbbb4c53063f64f20b3c0f973d433b1bbce253f3a03b"


def _key(task: Task, split: Split = HASH) -> str:
    return training_frame.frame_key(FEATURES, EXAMPLES, task, split, {}, None)
