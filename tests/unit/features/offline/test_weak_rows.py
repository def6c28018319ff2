"""Rows that may get a weak label, and their rows in training."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from cluster.values import Task
from features.builders import category, number, timestamp
from features.definitions import FeatureSet
from features.labeling.labeling_functions import WeakLabels, labeling_function
from features.offline.weak_rows import drop_groups, find_candidates, weigh_rows
from features.sources.source import Examples
from features.split import HashSplit, Split, TimeSplit
from features.types import AS_OF, ID, INSTANT, KNOWN_FROM, LABEL, LABEL_KNOWN_AT, WEIGHT

FEATURES = FeatureSet(name="set", request=(*number("x"), *category("who"), *timestamp("at")))
EXAMPLES = Examples(source="orders", id="n", label=pl.col("y"), label_known_at="told", event_time="at")
BINARY = Task(kind="binary", label="y")
WEAK = WeakLabels(
    functions=(
        labeling_function("high", pl.when(pl.col("x") > 2).then(1)),
        labeling_function("low", pl.when(pl.col("x") < 1).then(0)),
    ),
    weight=0.5,
)
NO_IDS = pl.Series(ID, [], pl.String)


def _day(day: int) -> datetime:
    return datetime(2024, 1, day, tzinfo=UTC)


def _split(group: tuple[str, ...] = ()) -> TimeSplit:
    return TimeSplit(start=_day(1), validate_from=_day(10), test_from=_day(12), end=_day(14), group=group)


def _rows() -> pl.DataFrame:
    """Days 1 to 13; odd days have a label, which is known a day later."""
    days = range(1, 14)
    labels = [float(day % 3 == 0) if day % 2 else None for day in days]
    told = [_day(day + 1) if day % 2 else None for day in days]
    who = ["ann" if day in (2, 13) else f"p{day}" for day in days]
    columns = {"n": list(days), "x": [float(day % 4) for day in days], "who": who, "at": [_day(day) for day in days]}
    return pl.DataFrame(columns | {"y": labels, "told": told}).with_columns(pl.col("at", "told").cast(INSTANT))


def _ids(
    split: Split, until: datetime | None = None, labeled: pl.Series = NO_IDS, rows: pl.DataFrame | None = None
) -> list[int]:
    found, groups = find_candidates(
        _rows() if rows is None else rows, FEATURES, EXAMPLES, BINARY, split, until, labeled
    )
    return [int(row) for row in drop_groups(found, groups)[ID]]


def test_candidates_are_the_unlabeled_rows_of_the_training_part() -> None:
    assert _ids(_split()) == [2, 4, 6, 8]


def test_candidates_are_known_at_their_own_time_and_have_no_label() -> None:
    found, _ = find_candidates(_rows(), FEATURES, EXAMPLES, BINARY, _split(), None, NO_IDS)
    assert found[LABEL].null_count() == found.height
    assert found[LABEL_KNOWN_AT].to_list() == found[AS_OF].to_list()
    assert found["split"].unique().to_list() == ["train"]


def test_candidates_until_a_time_are_earlier_rows() -> None:
    assert _ids(_split(), until=_day(4)) == [2, 4]


def test_candidates_leave_out_rows_whose_label_came_with_a_correction() -> None:
    corrected = _rows().with_columns(pl.lit(None, INSTANT).alias(KNOWN_FROM))
    further = corrected.filter(n=4).with_columns(pl.lit(_day(9)).cast(INSTANT).alias(KNOWN_FROM), y=1.0)
    assert _ids(_split(), labeled=pl.Series(ID, ["4"]), rows=pl.concat([corrected, further])) == [2, 6, 8]


def test_candidates_of_a_group_that_tests_are_left_out() -> None:
    assert _ids(_split(("who",))) == [4, 6, 8]


def test_candidates_of_a_hash_split_are_those_of_its_training_part() -> None:
    every = _rows().with_columns(pl.lit(None, pl.Float64).alias("y"))
    split = HashSplit(validation=0.3, test=0.3)
    ids = every.select(pl.col("n").cast(pl.String).alias(ID))
    expected = [int(row) for row in ids.filter(split.part_expr() == "train")[ID]]
    assert _ids(split, rows=every) == expected
    assert 0 < len(expected) < 13


def test_weigh_rows_gives_a_row_for_each_class_with_its_probability() -> None:
    rows = pl.DataFrame(
        {"id": ["a", "b", "c"], "x": [3.0, 0.0, 1.5], LABEL: [None] * 3}, schema_overrides={LABEL: pl.Float64}
    )
    posteriors = pl.DataFrame({"high": [1, -1], "low": [-1, 0], "posterior": [[0.2, 0.8], [0.995, 0.005]]})
    weighed = weigh_rows(rows, WEAK, BINARY, posteriors.cast({"high": pl.Int16, "low": pl.Int16}))
    assert weighed.select("id", LABEL, WEIGHT).rows() == [
        ("a", 0.0, pytest.approx(0.1)), ("a", 1.0, pytest.approx(0.4)), ("b", 0.0, pytest.approx(0.4975))
    ]  # fmt: skip
    assert weighed.columns == ["id", "x", LABEL, WEIGHT]
