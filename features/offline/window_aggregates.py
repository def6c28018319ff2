"""One aggregated column of many events, and its aggregates over ranges of them. Pure.

Sums are integers, multiples of the aggregate's resolution. They are exact, and each is rounded to float64 once:
mean = sum * resolution / n, std = sqrt((n * squares - sum * sum) / (n * (n - 1))) * resolution, with the products and
their difference in 128 bits. The online state (features/online/state_codec.py) reckons with the same integers, and gives the same bits.
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
_OF_SUMS = frozenset({"sum", "mean", "std"})
_EXTREMES = frozenset({"min", "max"})


@dataclass(frozen=True)
class ColumnIndex:
    """A column in the order of the events; what no aggregate asks for is None.

    ``count_sums`` and ``unit_sums`` [n + 1] are running totals of values and of their units, ``square_sums`` of squared units in 128
    bits; ``max_unit`` is the largest unit; ``numbers`` [n] has NaN for missing; ``previous`` is that of ranges.distinct.
    """

    count_sums: np.ndarray
    unit_sums: np.ndarray | None
    square_sums: pl.Series | None
    max_unit: int
    numbers: np.ndarray | None
    previous: np.ndarray | None

    def aggregate(self, aggregate: Aggregate, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The aggregate of each range [low, high), float64, NaN for null. Raises DataError when a sum may leave 64 bits."""
        if aggregate.op in ("min", "max"):
            return range_extremes(_there(self.numbers), low, high, aggregate.op)
        if aggregate.op == "distinct":
            return count_distinct(_there(self.previous), low, high).astype(np.float64)
        n = self.count_sums[high] - self.count_sums[low]
        if aggregate.op == "count":
            return np.asarray(n, np.float64)
        if int(n.max(initial=0)) * self.max_unit > _MAX_SUM:
            raise DataError(
                f"sums of {aggregate.column!r} may leave 64 bits at resolution {aggregate.resolution}",
                f"declare a coarser resolution on aggregate {aggregate.name!r}",
            )
        sums = _there(self.unit_sums)
        total = sums[high] - sums[low]
        if aggregate.op == "std":
            return _std(n, total, _difference(self.square_sums, low, high), aggregate.resolution)
        scaled: np.ndarray = total.astype(np.float64) * aggregate.resolution
        return _divided(scaled, n, n > 0) if aggregate.op == "mean" else scaled


def index_column(view: FeatureView, column: str, ordered: pl.DataFrame, code: str) -> ColumnIndex:
    """A column of a history that is sorted by entity (the column ``code``) and time. Raises DataError as units() does."""
    aggregates = [a for a in view.aggregates if a.column == column]
    ops = {a.op for a in aggregates}
    cells = ordered.get_column(value_column(aggregates[0]))
    whole = to_units(view, aggregates[0], cells).fill_null(0) if ops & _OF_SUMS else None
    return ColumnIndex(
        count_sums=prefix_sums(cells.is_not_null().to_numpy()),
        unit_sums=None if whole is None else prefix_sums(whole.to_numpy()),
        square_sums=_squares(whole) if whole is not None and "std" in ops else None,
        max_unit=0 if whole is None else int(np.abs(whole.to_numpy()).max(initial=0)),
        numbers=cells.fill_null(float("nan")).to_numpy() if ops & _EXTREMES else None,
        previous=_previous(ordered.get_column(code), cells) if "distinct" in ops else None,
    )


def _squares(whole: pl.Series) -> pl.Series:
    """Sums of the first 0, 1, ... n squares."""
    wide = pl.concat([pl.Series([0], dtype=pl.Int64), whole.alias("")]).cast(pl.Int128).to_frame("u")
    return wide.select((pl.col("u") * pl.col("u")).cum_sum()).to_series()


def _previous(code: pl.Series, cells: pl.Series) -> np.ndarray:
    frame = pl.DataFrame([code.alias("code"), cells.alias("cell")]).with_row_index("i").cast({"i": pl.Int64})
    before = pl.col("i").shift(1).over("code", "cell").fill_null(-1)
    return frame.select(pl.when(pl.col("cell").is_null()).then(frame.height).otherwise(before)).to_series().to_numpy()


def _difference(totals: pl.Series | None, low: np.ndarray, high: np.ndarray) -> pl.Series:
    gathered = pl.DataFrame({"high": _there(totals).gather(high), "low": _there(totals).gather(low)})
    return gathered.select(pl.col("high") - pl.col("low")).to_series()


def _std(n: np.ndarray, total: np.ndarray, square_sums: pl.Series, resolution: float) -> np.ndarray:
    wide = pl.DataFrame({"n": n, "sum": total, "squares": square_sums}).cast(pl.Int128)
    spread = pl.col("n") * pl.col("squares") - pl.col("sum") * pl.col("sum")
    spreads = wide.select(spread.cast(pl.Float64)).to_series().to_numpy()
    deviations: np.ndarray = np.sqrt(_divided(spreads, n * (n - 1), n > 1)) * resolution
    return deviations


def _divided(total: np.ndarray, by: np.ndarray, where: np.ndarray) -> np.ndarray:
    quotients = np.full(total.size, np.nan)
    np.divide(total, by.astype(np.float64), out=quotients, where=where)
    return quotients


def _there(made: T | None) -> T:
    assert made is not None, "asked for an aggregate that the values were not made for"
    return made
