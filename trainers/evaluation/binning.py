"""Columns of any kind as a few values each, so that rows can be sliced by them."""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import ProjectError
from cluster.values import Frozen

NOWHERE = -1
MISSING = "missing"
MAX_VALUES = 100


class Cut(Frozen):
    """How a column is cut: a number into ranges between ``edges``, anything else into its frequent ``values``.

    Missing comes last and counts as a value. Values that are not among the frequent ones lie in no slice.
    """

    column: str
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: pa.Table, column: str, bins: int, min_rows: int) -> Self:
        """Cut as these rows suggest: quantiles of a number, the values of at least ``min_rows`` rows of a category.

        Raises ProjectError for a column that is not there, or is a date or a tensor.
        """
        if column not in table.column_names:
            names = ", ".join(table.column_names)
            raise ProjectError(f"the gate slices by {column!r}, which the frame has not", f"it has {names}")
        values = table[column]
        if pa.types.is_nested(values.type) or pa.types.is_temporal(values.type):
            what = f"the gate cannot slice by {column!r}, which is {values.type}"
            raise ProjectError(what, "name numbers and categories")
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            return cls(column=column, edges=_edges(_floats(values), bins))
        counts = pc.value_counts(values.drop_null().cast(pa.string())).to_pylist()
        frequent = sorted((row for row in counts if row["counts"] >= min_rows), key=lambda row: -row["counts"])
        return cls(column=column, values=tuple(sorted(str(row["values"]) for row in frequent[:MAX_VALUES])))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each code stands for."""
        if self.edges:
            lows = ("", *(f"{edge:.4g} <= " for edge in self.edges))
            highs = (*(f" < {edge:.4g}" for edge in self.edges), "")
            ranges = [f"{low}{self.column}{high}" for low, high in zip(lows, highs, strict=True)]
            ranges[-1] = f"{self.column} >= {self.edges[-1]:.4g}"
            return (*ranges, f"{self.column} {MISSING}")
        return (*(f"{self.column} = {value}" for value in self.values), f"{self.column} {MISSING}")

    def codes(self, table: pa.Table) -> np.ndarray:
        """For each row the index into ``labels``, int64; -1 lies in no slice."""
        values, last = table[self.column], len(self.labels) - 1
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            numbers = _floats(values)
            # Without an edge all known values are alike: there is nothing to tell apart but missing.
            known = np.searchsorted(self.edges, numbers, side="right") if self.edges else np.full(len(numbers), NOWHERE)
            return np.where(np.isnan(numbers), last, known)
        text = values.cast(pa.string())
        found = pc.index_in(text, pa.array(self.values, pa.string())).fill_null(NOWHERE)
        return np.where(np.asarray(pc.is_null(text)), last, np.asarray(found)).astype(np.int64)


def _floats(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.cast(pa.float64()).to_numpy(), np.float64)


def _edges(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return ()
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    return tuple(edges[edges > known.min()].tolist())
