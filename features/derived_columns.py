"""Derived features in Polars: the same in training frames, in batch prediction and in serving. Pure.

Those of request columns are computed first, and with them the time as of which the views are looked up; those that use
features of the views, that time or each other follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from features.definitions import Column, Derived, FeatureSet
from features.types import AS_OF, INSTANT, POLARS_TYPES


def request_features(features: FeatureSet, request: pl.DataFrame, now_us: int | None = None) -> pl.DataFrame:
    """Compute request-time features, in training and in serving.

    Args:
        features: The feature set.
        request: Rows with the request columns.
        now_us: Time of the rows, microseconds since the epoch, when the feature set has no ``as_of`` and the request
            no column of that name.

    Returns:
        Request columns in their declared types, derived features of them, and ``as_of``.
    """
    columns, computed = [_cast(column) for column in features.request], request_expressions(features)
    if features.as_of is None:
        time = pl.col(AS_OF) if AS_OF in request.columns else pl.lit(now_us)
        computed.append(time.cast(INSTANT).alias(AS_OF))
    return as_in_many_rows(request, lambda rows: rows.select(columns + computed))


def joined_features(features: FeatureSet, rows: pl.DataFrame) -> pl.DataFrame:
    """Add the derived features that use more than request columns.

    Args:
        features: The feature set.
        rows: Result of ``request_features``, and the features of the views.
    """
    return add_columns(rows, joined_steps(features))


def request_expressions(features: FeatureSet) -> list[pl.Expr]:
    """Return the expressions of derived features of request columns, and of ``as_of`` where it is declared."""
    derived = [d.expr.cast(POLARS_TYPES[d.kind]) for d in features.request_derived]
    return derived if features.as_of is None else [*derived, features.as_of.expr.cast(INSTANT).alias(AS_OF)]


def joined_steps(features: FeatureSet) -> list[list[pl.Expr]]:
    """Return the expressions of the other derived features; none uses another one of its step."""
    steps: list[list[pl.Expr]] = []
    names: set[str] = set()
    for derived in features.joined_derived:
        if not steps or names.intersection(derived.input_columns):
            steps.append([])
            names = set()
        steps[-1].append(_joined(derived))
        names.add(derived.name)
    return steps


def add_columns(rows: pl.DataFrame, steps: Sequence[Sequence[pl.Expr]]) -> pl.DataFrame:
    """Add columns step by step."""

    def add(rows: pl.DataFrame) -> pl.DataFrame:
        for step in steps:
            rows = rows.with_columns(step)
        return rows

    return as_in_many_rows(rows, add) if steps else rows


def as_in_many_rows(rows: pl.DataFrame, compute: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Compute columns, with the same bits for one row as for the same row among others.

    Polars divides a column by a constant by multiplying with its reciprocal, and leaves a column to which it adds 0 as
    it is; but it computes a column that it knows to be constant, as that of a single row, and a chunk of one row as one
    number. The last bit or the sign of zero may differ.
    """
    columns = rows.get_columns()
    if rows.height == 1:
        return compute(pl.DataFrame([column.new_from_index(0, 2) for column in columns])).head(1)
    return compute(pl.DataFrame(columns).rechunk())


def _cast(column: Column) -> pl.Expr:
    return pl.col(column.name) if column.kind == "tensor" else pl.col(column.name).cast(POLARS_TYPES[column.kind])


def _joined(derived: Derived) -> pl.Expr:
    values = derived.expr.cast(POLARS_TYPES[derived.kind])
    # A ratio to an empty window is missing, not infinite.
    return pl.when(values.is_finite()).then(values).alias(derived.name) if derived.kind == "number" else values
