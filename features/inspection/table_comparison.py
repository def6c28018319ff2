"""What differs between two snapshots of a table: rows, keys, and figures of each column. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

_KEY_SEED, _ROW_SEED = 1, 2


class ColumnFigures(NamedTuple):
    """Figures of a column's values."""

    missing: int = 0
    mean: float | None = None
    """Of numbers; of the seconds since the epoch of times; None for texts, and without a finite value."""
    low: str = ""
    """The smallest value, as text."""
    high: str = ""


class ColumnDifference(NamedTuple):
    """A column whose figures differ; None on the side that lacks it."""

    column: str
    before: ColumnFigures | None
    after: ColumnFigures | None


class TableDifference(NamedTuple):
    """What differs between two snapshots of a table."""

    rows: tuple[int, int]
    added: int
    """Rows of keys that only the second snapshot has; without a key, rows that it has more often."""
    removed: int
    """The same of the first snapshot."""
    changed: int
    """Keys that both have, with other rows; 0 without a key."""
    columns: tuple[ColumnDifference, ...]

    @property
    def is_empty(self) -> bool:
        """Whether both snapshots have the same rows."""
        return not (self.added or self.removed or self.changed or self.columns)


class _Side:
    """What is known of one snapshot after its rows were read once."""

    def __init__(self, columns: Sequence[str], shared: Sequence[str], key: Sequence[str]) -> None:
        self.rows = 0
        self._figures = {name: _Figures() for name in columns}
        self._shared, self._key = list(shared), list(key)
        self._hashes: list[tuple[np.ndarray, np.ndarray]] = []

    def read(self, parts: Iterable[pl.DataFrame]) -> _Side:
        for part in parts:
            self.rows += part.height
            for name, figures in self._figures.items():
                figures.add(part.get_column(name))
            rows = _hash(part, self._shared, _ROW_SEED)
            self._hashes.append((_hash(part, self._key, _KEY_SEED) if self._key else rows, rows))
        return self

    def figures(self) -> dict[str, ColumnFigures]:
        return {name: figures.result() for name, figures in self._figures.items()}

    def hashes(self) -> pl.DataFrame:
        """For each key the number of its rows, and the sum of their hashes, which no order changes."""
        keys, rows = (np.concatenate([pair[i] for pair in self._hashes] or [np.empty(0, np.uint64)]) for i in (0, 1))
        table = pl.DataFrame({"key": keys, "row": rows})
        return table.group_by("key").agg(pl.len().cast(pl.Int64).alias("count"), pl.col("row").sum().alias("sum"))


class _Figures:
    """Figures of one column, part by part."""

    def __init__(self) -> None:
        self._missing, self._sum, self._count = 0, 0.0, 0
        self._low: Any = None
        self._high: Any = None

    def add(self, values: pl.Series) -> None:
        self._missing += values.null_count()
        if values.dtype.is_temporal() and values.dtype not in (pl.Time, pl.Duration):
            values = values.cast(pl.Datetime("us"))
            self._add_numbers(values.dt.epoch("us") / 1e6)
        elif values.dtype.is_numeric():
            self._add_numbers(values.cast(pl.Float64))
        elif values.dtype not in (pl.String, pl.Boolean):
            return
        low, high = values.min(), values.max()
        self._low = low if self._low is None else self._low if low is None else min(self._low, low)
        self._high = high if self._high is None else self._high if high is None else max(self._high, high)

    def _add_numbers(self, numbers: pl.Series) -> None:
        finite = numbers.filter(numbers.is_finite())
        self._sum, self._count = self._sum + float(finite.sum()), self._count + len(finite)

    def result(self) -> ColumnFigures:
        mean = self._sum / self._count if self._count else None
        return ColumnFigures(self._missing, mean, *("" if v is None else str(v) for v in (self._low, self._high)))


def compare_tables(
    before: tuple[Sequence[str], Iterable[pl.DataFrame]],
    after: tuple[Sequence[str], Iterable[pl.DataFrame]],
    key: Sequence[str] = (),
) -> TableDifference:
    """Compare two snapshots of a table.

    Rows are compared by hashes of 64 bits of the columns that both snapshots have: memory holds 16 bytes for each row.

    Args:
        before: Columns of the first snapshot, and its rows in parts.
        after: The same of the second snapshot.
        key: Columns that identify a row, or all versions of one; empty: none do.
    """
    shared = [name for name in before[0] if name in after[0]]
    first, second = (_Side(columns, shared, key).read(parts) for columns, parts in (before, after))
    both = first.hashes().join(second.hashes(), on="key", how="full", coalesce=True)
    count, other = pl.col("count").fill_null(0), pl.col("count_right").fill_null(0)
    is_shared = pl.all_horizontal(pl.col("count", "count_right").is_not_null())
    if key:
        added, removed = pl.col("count").is_null().sum(), pl.col("count_right").is_null().sum()
        differs = (count != other) | (pl.col("sum") != pl.col("sum_right"))
        changed = (is_shared & differs).sum()
    else:
        added, removed = (other - count).clip(0).sum(), (count - other).clip(0).sum()
        changed = pl.lit(0)
    counts = both.select(added.alias("added"), removed.alias("removed"), changed.alias("changed")).row(0, named=True)
    figures = first.figures(), second.figures()
    names = list(dict.fromkeys([*before[0], *after[0]]))
    sides = [(name, figures[0].get(name), figures[1].get(name)) for name in names]
    different = tuple(ColumnDifference(*side) for side in sides if not _alike(side[1], side[2]))
    return TableDifference((first.rows, second.rows), **counts, columns=different)


def _alike(one: ColumnFigures | None, other: ColumnFigures | None) -> bool:
    """Whether figures are the same; means may differ by the rounding of another order of the rows."""
    if one is None or other is None:
        return False
    means = (one.mean, other.mean)
    is_close = means[0] == means[1] or (None not in means and math.isclose(*means, rel_tol=1e-9, abs_tol=1e-12))  # type: ignore[arg-type]
    return is_close and one._replace(mean=None) == other._replace(mean=None)


def _hash(rows: pl.DataFrame, columns: Sequence[str], seed: int) -> np.ndarray:
    if not columns:
        return np.zeros(rows.height, np.uint64)
    return rows.select(pl.struct(columns).hash(seed)).to_series().to_numpy()
