"""A view's events in one form, the same for the point-in-time join and for the online state. Pure.

Times are integers: microseconds since the epoch. Zoned times of any zone and unit are converted: known-at and event
times are rounded up, the time of a row is rounded down, so that rounding never lets a row see later events. Times
without a zone are refused, since they are ambiguous.
"""

from __future__ import annotations

import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView, Latest, OutcomeView, require_present
from features.types import KNOWN_FROM, KNOWN_UNTIL

KNOWN_AT, EVENT_TIME, TIE_BREAKER = "__at", "__event", "__tie"
"""Columns of a history: from when an event counts, when it happened, and what decides between equal times."""
SEEN_FROM, SEEN_UNTIL = "__seen_from", "__seen_until"
"""Columns of a history of rows with versions: a row sees the event if its time is in [from, until)."""
FOREVER = 2**63 - 1
"""``SEEN_UNTIL`` of a version that nothing replaces."""

MAX_UNITS = 2**52
"""Largest value in units of its resolution. Beyond it, float64 has no exact halves, and sums of squares exceed 127
bits."""

MAX_EXACT_US = 2**53
"""Farthest time from the epoch, in the year 2255, up to which float64 has each microsecond."""
_COARSE_US = 64
"""Beyond it, times are multiples of this, so that the last microsecond of the year 9999 stays in it."""

_US_IN = {"ms": 1_000, "us": 1}
_NS_IN_US = 1_000


def build_history(view: FeatureView, rows: pl.DataFrame) -> pl.DataFrame:
    """Convert rows of a view's source to its history.

    An event counts from the later of its known-at and its event time. Events without a key, event time or known-at
    time are left out: no row can ever see them. A version of a row is an event too, which is seen from when the version
    is known until the next one is; its place in windows is that of its own times.

    Args:
        view: The view.
        rows: Rows with the view's source columns.

    Returns:
        One row for each event, in the order of ``rows``. Keys as text; ``KNOWN_AT`` and ``EVENT_TIME`` int64; for
        views with ``ties``, ``TIE_BREAKER`` float64, never null; ``value_column(aggregate)`` for each aggregated
        column; ``latest_column(latest)`` for each latest. If the rows have ``KNOWN_UNTIL``: ``SEEN_FROM`` and
        ``SEEN_UNTIL``, int64.

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
    place = pl.when(known.is_not_null()).then(event) if isinstance(view, OutcomeView) else counts_from
    times = [place.alias(KNOWN_AT), event.alias(EVENT_TIME)]
    ties = [_tie_breaker(view, rows.schema).alias(TIE_BREAKER)] if view.ties else []
    values = {value_column(a): _value(view, a, rows.schema).alias(value_column(a)) for a in view.aggregates}
    latest = [_latest_value(view, f, rows.schema).alias(latest_column(f)) for f in view.latest]
    keys = [key_as_text(rows.schema, key, where) for key in view.entity.keys]
    seen = _seen(view, rows.schema, place, counts_from)
    history = rows.select(*keys, *times, *ties, *values.values(), *latest, *seen)
    present = history.drop_nulls([*view.entity.keys, KNOWN_AT, EVENT_TIME])
    return present.filter(pl.col(SEEN_FROM) < pl.col(SEEN_UNTIL)) if seen else present


def seen_at(history: pl.DataFrame, at_us: int) -> pl.DataFrame:
    """Return the events of a history that a row at ``at_us`` sees, without the columns that say so.

    Args:
        history: A history, with or without versions.
        at_us: Microseconds since the epoch.
    """
    if SEEN_FROM not in history.columns:
        return history
    seen = (pl.col(SEEN_FROM) <= at_us) & (pl.col(SEEN_UNTIL) > at_us)
    return history.filter(seen).drop(SEEN_FROM, SEEN_UNTIL)


def value_column(aggregate: Aggregate) -> str:
    """Name the history's column with the values of an aggregate: float64, finite or null; or text."""
    return f"value {aggregate.column}"


def latest_column(latest: Latest) -> str:
    """Name the history's column with the values of a latest: float64 without NaN and -0.0, for a time whole
    microseconds since the epoch; or text."""
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


def _seen(view: FeatureView, schema: pl.Schema, place: pl.Expr, counts_from: pl.Expr) -> list[pl.Expr]:
    """From when and until when each event is seen, never before its place; nothing if that is always from its place."""
    where, settle_us = f"feature view {view.name!r}", view.settle_us if isinstance(view, OutcomeView) else 0
    since, until = counts_from, pl.lit(FOREVER, pl.Int64)
    if KNOWN_UNTIL in schema:
        since = pl.max_horizontal(counts_from, epoch_us(schema, KNOWN_FROM, where, up=True))
        until = (epoch_us(schema, KNOWN_UNTIL, where, up=True) - settle_us).fill_null(FOREVER)
    elif not isinstance(view, OutcomeView):
        return []
    return [pl.max_horizontal(place, since - settle_us).alias(SEEN_FROM), until.alias(SEEN_UNTIL)]


def _value(view: FeatureView, aggregate: Aggregate, schema: pl.Schema) -> pl.Expr:
    if aggregate.kind == "category":
        return pl.col(aggregate.column).cast(pl.String)
    number = _number(view, aggregate.column, schema)
    return pl.when(number.is_finite()).then(_without_negative_zero(number))


def _latest_value(view: FeatureView, latest: Latest, schema: pl.Schema) -> pl.Expr:
    if latest.kind == "category":
        return pl.col(latest.column).cast(pl.String)
    if latest.kind == "timestamp":
        at = epoch_us(schema, latest.column, f"feature view {view.name!r}", up=True)
        return pl.when(at.abs() > MAX_EXACT_US).then(at // _COARSE_US * _COARSE_US).otherwise(at).cast(pl.Float64)
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
