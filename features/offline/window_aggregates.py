"""Aggregates of a column over ranges of events. Pure.

Sums are integers, multiples of the aggregate's resolution. They are exact, and each is rounded to float64 once:
mean = sum * resolution / n, std = sqrt((n * squares - sum * sum) / (n * (n - 1))) * resolution, with the products and
their difference in 128 bits. The online state (features/online/state_codec.py) computes with the same integers, and
gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView
from features.events.event_history import to_units, value_column
from features.offline.range_queries import count_distinct, prefix_sums, range_extremes

T = TypeVar("T")

_MAX_SUM = 2**63 - 1
_SUM_OPERATIONS = frozenset({"sum", "mean", "std"})
_EXTREME_OPERATIONS = frozenset({"min", "max"})


@dataclass(frozen=True)
class ColumnIndex:
    """A column prepared for range queries, in the order of the events. What no aggregate needs is None."""

    count_sums: np.ndarray
    """Prefix sums of the number of values, int64 [n + 1]."""
    unit_sums: np.ndarray | None
    """Prefix sums of the values in units of the resolution, int64 [n + 1]."""
    square_sums: pl.Series | None
    """Prefix sums of the squared units, Int128 [n + 1]."""
    max_unit: int
    """The largest unit by magnitude."""
    numbers: np.ndarray | None
    """The values, NaN for missing, float64 [n]."""
    previous: np.ndarray | None
    """``previous`` of range_queries.count_distinct, int64 [n]."""

    def aggregate(self, aggregate: Aggregate, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Compute an aggregate over each range [low, high).

        Returns:
            float64 [ranges], NaN for null.

        Raises:
            DataError: A sum may exceed 64 bits.
        """
        if aggregate.op in ("min", "max"):
            return range_extremes(_require(self.numbers), low, high, aggregate.op)
        if aggregate.op == "distinct":
            return count_distinct(_require(self.previous), low, high).astype(np.float64)
        n = self.count_sums[high] - self.count_sums[low]
        if aggregate.op == "count":
            return np.asarray(n, np.float64)
        if int(n.max(initial=0)) * self.max_unit > _MAX_SUM:
            raise DataError("data.sum_exceeds_resolution", column=aggregate.column, resolution=aggregate.resolution)
        sums = _require(self.unit_sums)
        total = sums[high] - sums[low]
        if aggregate.op == "std":
            return _std(n, total, _difference(self.square_sums, low, high), aggregate.resolution)
        scaled: np.ndarray = total.astype(np.float64) * aggregate.resolution
        return _divide(scaled, n, n > 0) if aggregate.op == "mean" else scaled


def index_column(view: FeatureView, column: str, history: pl.DataFrame, code: str) -> ColumnIndex:
    """Prepare a column for range queries.

    Args:
        view: The view.
        column: Its aggregated column.
        history: A history, sorted by entity and time.
        code: The column of ``history`` that numbers entities.

    Raises:
        DataError: A value is too large for its resolution.
    """
    aggregates = [a for a in view.aggregates if a.column == column]
    ops = {a.op for a in aggregates}
    cells = history.get_column(value_column(aggregates[0]))
    whole = to_units(view, aggregates[0], cells).fill_null(0) if ops & _SUM_OPERATIONS else None
    return ColumnIndex(
        count_sums=prefix_sums(cells.is_not_null().to_numpy()),
        unit_sums=None if whole is None else prefix_sums(whole.to_numpy()),
        square_sums=_square_sums(whole) if whole is not None and "std" in ops else None,
        max_unit=0 if whole is None else int(np.abs(whole.to_numpy()).max(initial=0)),
        numbers=cells.fill_null(float("nan")).to_numpy() if ops & _EXTREME_OPERATIONS else None,
        previous=_previous(history.get_column(code), cells) if "distinct" in ops else None,
    )


def _square_sums(whole: pl.Series) -> pl.Series:
    """Prefix sums of squares."""
    wide = pl.concat([pl.Series([0], dtype=pl.Int64), whole.alias("")]).cast(pl.Int128).to_frame("u")
    return wide.select((pl.col("u") * pl.col("u")).cum_sum()).to_series()


def _previous(code: pl.Series, cells: pl.Series) -> np.ndarray:
    frame = pl.DataFrame([code.alias("code"), cells.alias("cell")]).with_row_index("i").cast({"i": pl.Int64})
    before = pl.col("i").shift(1).over("code", "cell").fill_null(-1)
    return frame.select(pl.when(pl.col("cell").is_null()).then(frame.height).otherwise(before)).to_series().to_numpy()


def _difference(totals: pl.Series | None, low: np.ndarray, high: np.ndarray) -> pl.Series:
    sums_at_bounds = pl.DataFrame({"high": _require(totals).gather(high), "low": _require(totals).gather(low)})
    return sums_at_bounds.select(pl.col("high") - pl.col("low")).to_series()


def _std(n: np.ndarray, total: np.ndarray, square_sums: pl.Series, resolution: float) -> np.ndarray:
    wide = pl.DataFrame({"n": n, "sum": total, "squares": square_sums}).cast(pl.Int128)
    spread = pl.col("n") * pl.col("squares") - pl.col("sum") * pl.col("sum")
    spreads = wide.select(spread.cast(pl.Float64)).to_series().to_numpy()
    return np.asarray(np.sqrt(_divide(spreads, n * (n - 1), n > 1)) * resolution)


def _divide(total: np.ndarray, by: np.ndarray, where: np.ndarray) -> np.ndarray:
    quotients = np.full(total.size, np.nan)
    np.divide(total, by.astype(np.float64), out=quotients, where=where)
    return quotients


def _require(array: T | None) -> T:
    assert array is not None, "the column was not prepared for this aggregate"
    return array
