"""A view's events in one form, the same for the point-in-time join and for the online state. Pure.

Instants are integers: microseconds since the epoch. Zoned times of any zone and unit are brought to it, a known-at and
an event time rounded up, the time of a row down, so that rounding never lets a row see what came after it. A time
without a zone is refused: it does not say when.
"""

from __future__ import annotations

import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView, Latest

KNOWN_AT, EVENT_TIME, TIE_BREAKER = "__at", "__event", "__tie"
"""Columns of a history: from when an event counts, when it happened, and what decides between equals."""

MAX_UNITS = 2**52
"""Largest value in units of its resolution: beyond it float64 has no exact halves, and sums of squares leave 127 bits."""

_US_IN = {"ms": 1_000, "us": 1}
_NS_IN_US = 1_000


def build_history(view: FeatureView, rows: pl.DataFrame) -> pl.DataFrame:
    """The events of ``rows``, columns of the view's source, that are ever known of any entity, in their order.

    Keys as text; ``AT`` and ``EVENT`` int64; ``TIE`` float64, never null, when the view declares ``ties``; a column
    ``value_of(aggregate)`` for each column that is aggregated and ``newest_of(latest)`` for each latest.
    An event counts from the later of its known-at and its event time on. One without a key, an event time or a
    known-at time belongs to nobody, or is never known, and is left out.
    Raises DataError for a column that is absent, a time without zone, a key or value of a type that cannot be one.
    """
    missing = [c for c in view.source_columns if c not in rows.columns]
    if missing:
        raise DataError(f"feature view {view.name!r} needs columns {missing}, which source {view.source!r} lacks")
    rows = rows.with_columns(d.expr for d in view.derived)
    where = f"feature view {view.name!r}"
    event = epoch_us(rows.schema, view.event_time, where, up=True)
    known = epoch_us(rows.schema, view.known_at, where, up=True) if view.known_at else event + view.delay_us
    # max_horizontal passes over nulls: a known-at that is missing must stay missing.
    times = [
        pl.when(known.is_not_null()).then(pl.max_horizontal(event, known)).alias(KNOWN_AT),
        event.alias(EVENT_TIME),
    ]
    ties = [_tie(view, rows.schema).alias(TIE_BREAKER)] if view.ties else []
    aggregated = {value_column(a): _value(view, a, rows.schema).alias(value_column(a)) for a in view.aggregates}
    newest = [_newest(view, f, rows.schema).alias(latest_column(f)) for f in view.latest]
    keys = [key_as_text(rows.schema, key, where) for key in view.entity.keys]
    return rows.select(*keys, *times, *ties, *aggregated.values(), *newest).drop_nulls(
        [*view.entity.keys, KNOWN_AT, EVENT_TIME]
    )


def value_column(aggregate: Aggregate) -> str:
    """The history's column of what an aggregate reads: float64, finite or null; or text."""
    return f"value {aggregate.column}"


def latest_column(latest: Latest) -> str:
    """The history's column of what a latest reads: float64, NaN null, -0.0 0.0; or text."""
    return f"latest {latest.name}"


def to_units(view: FeatureView, aggregate: Aggregate, values: pl.Series) -> pl.Series:
    """Values in whole multiples of the aggregate's resolution, int64. Raises DataError for one beyond MAX_UNITS."""
    scaled = (values / aggregate.resolution).round(0, mode="half_to_even")
    largest = scaled.abs().max()
    if isinstance(largest, float) and largest > MAX_UNITS:
        raise DataError(
            f"feature view {view.name!r}: a value of {aggregate.column!r} is too large for resolution {aggregate.resolution}",
            "declare a coarser resolution on its aggregates",
        )
    return scaled.cast(pl.Int64)


def epoch_us(schema: pl.Schema, column: str, where: str, *, up: bool) -> pl.Expr:
    """A column of zoned times as int64 microseconds since the epoch. Raises DataError when it is of another type."""
    kind = schema[column]
    if kind == pl.Null:
        return pl.lit(None, pl.Int64)
    if not isinstance(kind, pl.Datetime):
        raise DataError(f"{where}: column {column!r} should be a time, and is {kind}", "give it as a zoned timestamp")
    if kind.time_zone is None:
        raise DataError(
            f"{where}: the times of {column!r} have no time zone, and do not say when they were",
            f'name the zone where the source is read, such as pl.col("{column}").dt.replace_time_zone("UTC")',
        )
    ticks = pl.col(column).to_physical()
    if kind.time_unit in _US_IN:
        return ticks * _US_IN[kind.time_unit]
    return -((-ticks) // _NS_IN_US) if up else ticks // _NS_IN_US


def key_as_text(schema: pl.Schema, key: str, where: str) -> pl.Expr:
    """A key column as text. Raises DataError for one of floats, which have no one way to be written."""
    if schema[key].is_float():
        raise DataError(f"{where}: key {key!r} is {schema[key]}", "make it a whole number or a text")
    return pl.col(key).cast(pl.String)


def _value(view: FeatureView, aggregate: Aggregate, schema: pl.Schema) -> pl.Expr:
    value = pl.col(aggregate.column)
    if aggregate.kind == "category":
        return value.cast(pl.String)
    number = _number(view, aggregate.column, schema)
    return pl.when(number.is_finite()).then(_one_zero(number))


def _newest(view: FeatureView, latest: Latest, schema: pl.Schema) -> pl.Expr:
    if latest.kind == "category":
        return pl.col(latest.column).cast(pl.String)
    return _one_zero(_number(view, latest.column, schema)).fill_nan(None)


def _tie(view: FeatureView, schema: pl.Schema) -> pl.Expr:
    if schema[view.ties].is_temporal():
        time = epoch_us(schema, view.ties, f"feature view {view.name!r}", up=True).cast(pl.Float64)
        return time.fill_null(float("-inf"))
    # NaN is greater than all numbers for Polars; here it is missing.
    return _one_zero(_number(view, view.ties, schema)).fill_nan(None).fill_null(float("-inf"))


def _one_zero(number: pl.Expr) -> pl.Expr:
    """-0.0 becomes 0.0, so that equal values are equal in every bit. (Polars takes ``+ 0.0`` for nothing to do.)"""
    return pl.when(number == 0.0).then(0.0).otherwise(number)


def _number(view: FeatureView, column: str, schema: pl.Schema) -> pl.Expr:
    kind = schema[column]
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise DataError(
            f"feature view {view.name!r} takes {column!r} for a number, and it is {kind}",
            'declare its kind "category", or derive a number from it',
        )
    return pl.col(column).cast(pl.Float64)
