"""Computes derived features of requests: of a few rows by compiled functions, of others by Polars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import polars as pl
import pyarrow as pa

from features.definitions import Column, Derived
from features.derived_columns import add_columns
from features.online.arrow_cells import ArrowColumn, build_cells, plain_values
from features.online.expression_compiler import FallbackRequired, Row, Value, compile_derived
from features.types import arrow_type

# Beyond this number of rows Polars is faster.
_FEW_ROWS = 4


class DerivedReader:
    """Computes derived features one after another.

    Args:
        derived: The features; each may use those before it.
        columns: Every column that one of them may use.
        steps: Their expressions for Polars.
        finite: Whether numbers that are NaN or infinite are null, as they are in ``steps``.
    """

    def __init__(
        self, derived: Sequence[Derived], columns: Sequence[Column], steps: Sequence[Sequence[pl.Expr]], finite: bool
    ) -> None:
        # Building expressions costs more than running them on one row.
        self._steps = steps
        names = {d.name for d in derived}
        self._inputs = sorted({name for d in derived for name in d.input_columns} - names)
        compiled = {d.name: compile_derived(d, columns) for d in derived}
        numbers = {d.name for d in derived if d.kind == "number" and finite}
        self._functions = {n: _finite(run) if n in numbers else run for n, run in compiled.items() if run}
        self._is_compiled = bool(self._inputs) and None not in compiled.values()
        self._names = list(compiled)
        self._types = {c.name: arrow_type(c) for c in (*columns, *(Column(name=d.name, kind=d.kind) for d in derived))}

    def read(self, columns: Mapping[str, ArrowColumn], size: int) -> dict[str, ArrowColumn]:
        """Compute the features.

        Args:
            columns: The columns that they use, in their types.
            size: Number of rows.
        """
        if not self._steps:
            return {}
        return self._compute_rows(columns, size) or self._compute_batch(columns)

    def _compute_batch(self, columns: Mapping[str, ArrowColumn]) -> dict[str, ArrowColumn]:
        rows = pl.DataFrame(pa.table({name: columns[name] for name in self._inputs}))
        computed = add_columns(rows, self._steps)
        return {name: computed.get_column(name).to_arrow().cast(self._types[name]) for name in self._names}

    def _compute_rows(self, columns: Mapping[str, ArrowColumn], size: int) -> dict[str, ArrowColumn] | None:
        """Compute a few rows without the fixed cost of Polars; None where Polars must be used."""
        if size > _FEW_ROWS or not self._is_compiled:
            return None
        cells = [plain_values(columns[name], self._types[name]) for name in self._inputs]
        rows = [dict(zip(self._inputs, values, strict=True)) for values in zip(*cells, strict=True)]
        try:
            for name, run in self._functions.items():
                for row in rows:
                    row[name] = run(row)
        except FallbackRequired:
            return None
        return {name: build_cells([row[name] for row in rows], self._types[name]) for name in self._names}


def _finite(run: Callable[[Row], Value]) -> Callable[[Row], Value]:
    def read(row: Row) -> Value:
        value = run(row)
        return value if isinstance(value, float) and math.isfinite(value) else None

    return read
