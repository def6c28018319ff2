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
from features.offline.version_overlay import Pairs

T = TypeVar("T")

_MAX_SUM = 2**63 - 1
_SUM_OPERATIONS = frozenset({"sum", "mean", "std"})
_EXTREME_OPERATIONS = frozenset({"min", "max"})


@dataclass(frozen=True)
class OverlayColumn:
    """A column's values of the versions outside the order of the events. What no aggregate needs is None."""

    is_present: np.ndarray
    """Whether a version has a value, bool [versions]."""
    units: np.ndarray | None
    """Values in units of the resolution, int64 [versions]."""
    numbers: np.ndarray | None
    """float64 [versions]."""
    values: np.ndarray | None
    """Number of each value, equal for equal values here and among the events, int64 [versions]."""
    places: np.ndarray | None
    """``value * (events + 1) + position`` of each event with a value, ascending, int64."""
    events: int

    def count(self, pairs: Pairs, rows: int) -> np.ndarray:
        """Number of values for each row."""
        return np.bincount(pairs.rows[self.is_present[pairs.versions]], minlength=rows)

    def add_units(self, pairs: Pairs, totals: np.ndarray) -> None:
        """Add the values to the rows' sums."""
        np.add.at(totals, pairs.rows, _require(self.units)[pairs.versions])

    def add_squares(self, pairs: Pairs, squares: pl.Series) -> pl.Series:
        """Return the rows' sums of squares with those of the values."""
        wide = pl.DataFrame({"row": pairs.rows, "u": _require(self.units)[pairs.versions]}).cast({"u": pl.Int128})
        added = wide.group_by("row").agg((pl.col("u") * pl.col("u")).sum())
        rows = pl.DataFrame({"row": np.arange(len(squares)), "squares": squares})
        both = rows.join(added, on="row", how="left", maintain_order="left")
        return both.select(pl.col("squares") + pl.col("u").fill_null(0)).to_series()

    def extend_extremes(self, pairs: Pairs, extremes: np.ndarray, of: str) -> None:
        """Replace the rows' extremes where a value exceeds them."""
        best = np.fmin if of == "min" else np.fmax
        best.at(extremes, pairs.rows, _require(self.numbers)[pairs.versions])

    def count_new(self, pairs: Pairs, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Number of each row's different values that none of its events [low, high) has."""
        present = self.is_present[pairs.versions]
        seen = pl.DataFrame({"row": pairs.rows[present], "value": _require(self.values)[pairs.versions[present]]})
        rows, values = (column.to_numpy() for column in seen.unique().get_columns())
        places, first = _require(self.places), values * (self.events + 1)
        at = np.searchsorted(places, first + low[rows])
        is_known = np.append(places, np.iinfo(np.int64).max)[at] < first + high[rows]
        return np.bincount(rows[~is_known], minlength=low.size)


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
    overlay: OverlayColumn | None = None
    """Values of versions outside the order of the events."""

    def aggregate(
        self, aggregate: Aggregate, low: np.ndarray, high: np.ndarray, pairs: Pairs | None = None
    ) -> np.ndarray:
        """Compute an aggregate over each range [low, high).

        Args:
            aggregate: The aggregate.
            low: Starts of the ranges.
            high: Ends of the ranges.
            pairs: Versions that the rows see besides; needs ``overlay``.

        Returns:
            float64 [ranges], NaN for null.

        Raises:
            DataError: A sum may exceed 64 bits.
        """
        overlay = self.overlay if pairs is not None and pairs.rows.size else None
        if aggregate.op in ("min", "max"):
            extremes = range_extremes(_require(self.numbers), low, high, aggregate.op)
            if overlay and pairs:
                overlay.extend_extremes(pairs, extremes, aggregate.op)
            return extremes
        if aggregate.op == "distinct":
            distinct = count_distinct(_require(self.previous), low, high)
            return (distinct + overlay.count_new(pairs, low, high) if overlay and pairs else distinct).astype(
                np.float64
            )
        n = self.count_sums[high] - self.count_sums[low]
        if overlay and pairs:
            n += overlay.count(pairs, low.size)
        if aggregate.op == "count":
            return np.asarray(n, np.float64)
        if int(n.max(initial=0)) * self.max_unit > _MAX_SUM:
            raise DataError("data.sum_exceeds_resolution", column=aggregate.column, resolution=aggregate.resolution)
        sums = _require(self.unit_sums)
        total = sums[high] - sums[low]
        if overlay and pairs:
            overlay.add_units(pairs, total)
        if aggregate.op == "std":
            squares = _difference(self.square_sums, low, high)
            if overlay and pairs:
                squares = overlay.add_squares(pairs, squares)
            return _std(n, total, squares, aggregate.resolution)
        scaled: np.ndarray = total.astype(np.float64) * aggregate.resolution
        return _divide(scaled, n, n > 0) if aggregate.op == "mean" else scaled


def index_column(
    view: FeatureView, column: str, history: pl.DataFrame, code: str, versions: pl.DataFrame | None = None
) -> ColumnIndex:
    """Prepare a column for range queries.

    Args:
        view: The view.
        column: Its aggregated column.
        history: A history, sorted by entity and time.
        code: The column of ``history`` that numbers entities.
        versions: Versions outside the order of ``history``.

    Raises:
        DataError: A value is too large for its resolution.
    """
    aggregates = [a for a in view.aggregates if a.column == column]
    ops = {a.op for a in aggregates}
    cells = history.get_column(value_column(aggregates[0]))
    whole = to_units(view, aggregates[0], cells).fill_null(0) if ops & _SUM_OPERATIONS else None
    overlay = None if versions is None else _overlay_column(view, aggregates, cells, versions)
    units = [] if whole is None else [whole.to_numpy()]
    units += [overlay.units] if overlay and overlay.units is not None else []
    return ColumnIndex(
        count_sums=prefix_sums(cells.is_not_null().to_numpy()),
        unit_sums=None if whole is None else prefix_sums(whole.to_numpy()),
        square_sums=_square_sums(whole) if whole is not None and "std" in ops else None,
        max_unit=max((int(np.abs(some).max(initial=0)) for some in units), default=0),
        numbers=cells.fill_null(float("nan")).to_numpy() if ops & _EXTREME_OPERATIONS else None,
        previous=_previous(history.get_column(code), cells) if "distinct" in ops else None,
        overlay=overlay,
    )


def _overlay_column(
    view: FeatureView, aggregates: list[Aggregate], events: pl.Series, versions: pl.DataFrame
) -> OverlayColumn:
    ops = {a.op for a in aggregates}
    cells = versions.get_column(value_column(aggregates[0]))
    units = to_units(view, aggregates[0], cells).fill_null(0).to_numpy() if ops & _SUM_OPERATIONS else None
    values, places = _value_places(events, cells) if "distinct" in ops else (None, None)
    return OverlayColumn(
        is_present=cells.is_not_null().to_numpy(),
        units=units,
        numbers=cells.fill_null(float("nan")).to_numpy() if ops & _EXTREME_OPERATIONS else None,
        values=values,
        places=places,
        events=len(events),
    )


def _value_places(events: pl.Series, cells: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the versions' values, and where the events have which value."""
    numbers = pl.concat([events.alias(""), cells.alias("")]).rank("dense").cast(pl.Int64)
    of_events = numbers.head(len(events))
    positions = np.flatnonzero(of_events.is_not_null().to_numpy())
    places = of_events.drop_nulls().to_numpy() * (len(events) + 1) + positions
    return numbers.tail(len(cells)).fill_null(0).to_numpy(), np.sort(places)


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
