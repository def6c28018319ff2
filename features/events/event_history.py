"""A view's events in one form, the same for the point-in-time join and for the online state. Pure.

Times are integers: microseconds since the epoch. Zoned times of any zone and unit are converted: known-at and event
times are rounded up, the time of a row is rounded down, so that rounding never lets a row see later events. Times
without a zone are refused, since they are ambiguous.
"""

from __future__ import annotations

import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView, Latest, require_present

KNOWN_AT, EVENT_TIME, TIE_BREAKER = "__at", "__event", "__tie"
"""Columns of a history: from when an event counts, when it happened, and what decides between equal times."""

MAX_UNITS = 2**52
"""Largest value in units of its resolution. Beyond it, float64 has no exact halves, and sums of squares exceed 127
bits."""

_US_IN = {"ms": 1_000, "us": 1}
_NS_IN_US = 1_000


def build_history(view: FeatureView, rows: pl.DataFrame) -> pl.DataFrame:
    """Convert rows of a view's source to its history.

    An event counts from the later of its known-at and its event time. Events without a key, event time or known-at
    time are left out: no row can ever see them.

    Args:
        view: The view.
        rows: Rows with the view's source columns.

    Returns:
        One row for each event, in the order of ``rows``. Keys as text; ``KNOWN_AT`` and ``EVENT_TIME`` int64; for
        views with ``ties``, ``TIE_BREAKER`` float64, never null; ``value_column(aggregate)`` for each aggregated
        column; ``latest_column(latest)`` for each latest.

    Raises:
        DataError: A column is missing, a time has no zone, or a key or value has an unsuitable type.
    """
    where = f"feature view {view.name!r}"
    table = f"source {view.source!r} of {where}"
    require_present(view.source_columns, rows.columns, table, view=view.name, source=view.source)
    rows = rows.with_columns(d.expr for d in view.derived)
    event = epoch_us(rows.schema, view.event_time, where, up=True)
    known = epoch_us(rows.schema, view.known_at, where, up=True) if view.known_at else event + view.delay_us
    # max_horizontal skips nulls: a missing known-at must stay missing.
    counts_from = pl.when(known.is_not_null()).then(pl.max_horizontal(event, known))
    times = [counts_from.alias(KNOWN_AT), event.alias(EVENT_TIME)]
    ties = [_tie_breaker(view, rows.schema).alias(TIE_BREAKER)] if view.ties else []
    values = {value_column(a): _value(view, a, rows.schema).alias(value_column(a)) for a in view.aggregates}
    latest = [_latest_value(view, f, rows.schema).alias(latest_column(f)) for f in view.latest]
    keys = [key_as_text(rows.schema, key, where) for key in view.entity.keys]
    history = rows.select(*keys, *times, *ties, *values.values(), *latest)
    return history.drop_nulls([*view.entity.keys, KNOWN_AT, EVENT_TIME])


def value_column(aggregate: Aggregate) -> str:
    """Name the history's column with the values of an aggregate: float64, finite or null; or text."""
    return f"value {aggregate.column}"


def latest_column(latest: Latest) -> str:
    """Name the history's column with the values of a latest: float64 without NaN and -0.0; or text."""
    return f"latest {latest.name}"


def to_units(view: FeatureView, aggregate: Aggregate, values: pl.Series) -> pl.Series:
    """Round values to whole multiples of the aggregate's resolution, int64.

    Raises:
        DataError: A value exceeds ``MAX_UNITS``.
    """
    scaled = (values / aggregate.resolution).round(0, mode="half_to_even")
    largest = scaled.abs().max()
    if isinstance(largest, float) and largest > MAX_UNITS:
        raise DataError(
            "data.value_exceeds_resolution", view=view.name, column=aggregate.column, resolution=aggregate.resolution
        )
    return scaled.cast(pl.Int64)


def epoch_us(schema: pl.Schema, column: str, where: str, *, up: bool) -> pl.Expr:
    """Convert a column of zoned times to int64 microseconds since the epoch.

    Args:
        schema: Types of the columns.
        column: The column.
        where: What has the column, for messages.
        up: Round nanoseconds up; otherwise down.

    Raises:
        DataError: The column is not a time, or has no zone.
    """
    kind = schema[column]
    if kind == pl.Null:
        return pl.lit(None, pl.Int64)
    if not isinstance(kind, pl.Datetime):
        raise DataError("data.not_a_timestamp", column=column, type=str(kind), where=where)
    if kind.time_zone is None:
        raise DataError("data.timestamp_without_zone", column=column, where=where)
    ticks = pl.col(column).to_physical()
    if kind.time_unit in _US_IN:
        return ticks * _US_IN[kind.time_unit]
    return -((-ticks) // _NS_IN_US) if up else ticks // _NS_IN_US


def key_as_text(schema: pl.Schema, key: str, where: str) -> pl.Expr:
    """Convert a key column to text.

    Raises:
        DataError: The keys are floats, which have no unique text form.
    """
    if schema[key].is_float():
        raise DataError("data.float_key", column=key, type=str(schema[key]), where=where)
    return pl.col(key).cast(pl.String)


def _value(view: FeatureView, aggregate: Aggregate, schema: pl.Schema) -> pl.Expr:
    if aggregate.kind == "category":
        return pl.col(aggregate.column).cast(pl.String)
    number = _number(view, aggregate.column, schema)
    return pl.when(number.is_finite()).then(_without_negative_zero(number))


def _latest_value(view: FeatureView, latest: Latest, schema: pl.Schema) -> pl.Expr:
    if latest.kind == "category":
        return pl.col(latest.column).cast(pl.String)
    return _without_negative_zero(_number(view, latest.column, schema)).fill_nan(None)


def _tie_breaker(view: FeatureView, schema: pl.Schema) -> pl.Expr:
    if schema[view.ties].is_temporal():
        time = epoch_us(schema, view.ties, f"feature view {view.name!r}", up=True).cast(pl.Float64)
        return time.fill_null(float("-inf"))
    # To Polars, NaN is larger than all numbers; here it is missing.
    return _without_negative_zero(_number(view, view.ties, schema)).fill_nan(None).fill_null(float("-inf"))


def _without_negative_zero(number: pl.Expr) -> pl.Expr:
    """Make equal values equal in every bit. (Polars optimizes ``+ 0.0`` away.)"""
    return pl.when(number == 0.0).then(0.0).otherwise(number)


def _number(view: FeatureView, column: str, schema: pl.Schema) -> pl.Expr:
    kind = schema[column]
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise DataError(
            "data.not_a_number", where=f"feature view {view.name!r}", column=column, type=str(kind), view=view.name
        )
    return pl.col(column).cast(pl.Float64)
