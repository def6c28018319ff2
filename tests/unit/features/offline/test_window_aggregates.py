"""Aggregates over ranges of one column, by hand: events 0 to 3 have the values 1, 2, missing, 4."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from cluster.errors import DataError
from features.definitions import Aggregate, Entity, FeatureView
from features.events.event_history import value_column
from features.offline.window_aggregates import ColumnIndex, index_column
from tests.factories.errors import raises

OPS = ("count", "sum", "mean", "std", "min", "max", "distinct")
RESOLUTION = 2.0**-2
BY_OP = {op: Aggregate(column="x", op=op, window=timedelta(1), name=op, resolution=RESOLUTION) for op in OPS}
VIEW = FeatureView(
    name="view",
    entity=Entity(name="one", keys=("a",)),
    source="events",
    event_time="at",
    aggregates=tuple(BY_OP.values()),
)
LOW, HIGH = np.array([0, 0, 2, 1, 3]), np.array([4, 2, 3, 1, 4])
"""Ranges: all events, the first two, the missing one, none, the last."""


@pytest.fixture(scope="module")
def index() -> ColumnIndex:
    history = pl.DataFrame({"code": [0, 0, 0, 0], "x": [1.0, 2.0, None, 4.0]})
    return index_column(VIEW, "x", history.rename({"x": value_column(BY_OP["sum"])}), "code")


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("count", [3, 2, 0, 0, 1]),
        ("sum", [7, 3, 0, 0, 4]),
        ("mean", [7 / 3, 1.5, np.nan, np.nan, 4]),
        ("std", [(7 / 3) ** 0.5, 0.5**0.5, np.nan, np.nan, np.nan]),
        ("min", [1, 1, np.nan, np.nan, 4]),
        ("max", [4, 2, np.nan, np.nan, 4]),
        ("distinct", [3, 2, 0, 0, 1]),
    ],
)
def test_aggregate_of_ranges_is_that_of_their_values(index: ColumnIndex, op: str, expected: list[float]) -> None:
    np.testing.assert_allclose(index.aggregate(BY_OP[op], LOW, HIGH), expected, rtol=1e-15)


@pytest.mark.parametrize(("largest", "fits"), [(2**63 - 1, True), (2**63, False)])
def test_sum_is_refused_from_the_first_that_may_exceed_64_bits(index: ColumnIndex, largest: int, fits: bool) -> None:
    """One value of a range may be as large as the largest of the column."""
    risky, low, high = dataclasses.replace(index, max_unit=largest), np.array([3]), np.array([4])
    if fits:
        assert risky.aggregate(BY_OP["sum"], low, high) == [4]
    else:
        with raises(DataError, "data.sum_exceeds_resolution", column="x", resolution=RESOLUTION):
            risky.aggregate(BY_OP["sum"], low, high)
