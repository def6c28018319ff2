"""Columns of any type as a few bins each, so that rows can be sliced by them."""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.disparity import MISSING

NO_BIN = -1
MAX_VALUES = 100


class Binning(Frozen):
    """How a column is divided into bins: a number by ``edges``, any other column by its frequent ``values``.

    The last bin holds missing values. Values that are not frequent fall into no bin.
    """

    column: str
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @classmethod
    def fit(cls, table: pa.Table, column: str, bins: int, min_rows: int) -> Self:
        """Choose the bins of a column from its rows.

        Args:
            table: The rows.
            column: The column to bin.
            bins: Number of quantile ranges of a number.
            min_rows: A category with at least this many rows has its own bin, for at most ``MAX_VALUES`` categories.

        Raises:
            ProjectError: The column does not exist, or is a date or a tensor.
        """
        values = gate_column(table, column, "gate slice column")
        if pa.types.is_nested(values.type) or pa.types.is_temporal(values.type):
            raise ProjectError("project.gate_column_type", column=column, type=str(values.type))
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            return cls(column=column, edges=_edges(_floats(values), bins))
        counts = pc.value_counts(values.drop_null().cast(pa.string())).to_pylist()
        frequent = sorted((row for row in counts if row["counts"] >= min_rows), key=lambda row: -row["counts"])
        return cls(column=column, values=tuple(sorted(str(row["values"]) for row in frequent[:MAX_VALUES])))

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each bin."""
        if self.edges:
            lows = ("", *(f"{edge:.4g} <= " for edge in self.edges))
            highs = (*(f" < {edge:.4g}" for edge in self.edges), "")
            ranges = [f"{low}{self.column}{high}" for low, high in zip(lows, highs, strict=True)]
            ranges[-1] = f"{self.column} >= {self.edges[-1]:.4g}"
            return (*ranges, f"{self.column} {MISSING}")
        return (*(f"{self.column} = {value}" for value in self.values), f"{self.column} {MISSING}")

    def codes(self, table: pa.Table) -> np.ndarray:
        """The bin of each row as an index into ``labels``, int64 [n]; ``NO_BIN`` for rows without one."""
        values, last = table[self.column], len(self.labels) - 1
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
            numbers = _floats(values)
            # Without an edge all known values share a bin: only missing values differ from them.
            known = np.searchsorted(self.edges, numbers, side="right") if self.edges else np.full(len(numbers), NO_BIN)
            return np.where(np.isnan(numbers), last, known)
        text = values.cast(pa.string())
        bins = pc.index_in(text, pa.array(self.values, pa.string())).fill_null(NO_BIN)
        return np.where(np.asarray(pc.is_null(text)), last, np.asarray(bins)).astype(np.int64)


def gate_column(table: pa.Table, column: str, use: str) -> pa.ChunkedArray:
    """Return a column of the training frame that the gate's policy names.

    Args:
        table: Rows of the frame.
        column: The column.
        use: What the policy names it for, for the message.

    Raises:
        ProjectError: The column does not exist.
    """
    if column not in table.column_names:
        raise ProjectError("project.unknown_gate_column", use=use, column=column, present=table.column_names)
    return table[column]


def _floats(values: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(values.cast(pa.float64()).to_numpy(), np.float64)


def _edges(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return ()
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    return tuple(edges[edges > known.min()].tolist())
