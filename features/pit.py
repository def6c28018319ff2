"""The point-in-time join: what was known of an entity at the time of each row.

Windows count what *became known* in (t - window, t]. Per entity, events are sorted by known-at time
and summed up once; a window is then the difference of two as-of look-ups, so the cost is that of
sorting, whatever the windows. Sums are integers (multiples of the aggregate's resolution): they are
exact, and the online state (features/state.py), which adds the same integers, gives the same bits.

Ties: among rows of a source known at t, ``latest`` takes the newest event time, then the newest
known-at time, then the one that stands last in the source.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from cluster.errors import DataError
from features.definitions import Aggregate, FeatureView

AS_OF = "as_of"
INSTANT = pl.Datetime("us", "UTC")


_ROW = "__row"
_AT = "__at"
# Beyond this many units a sum of many values could leave 64 bits.
_MAX_UNITS = 2**52


class Prepared(NamedTuple):
    """The events of one view, sorted and summed up; immutable, to be shared by all partitions."""

    totals: pl.DataFrame
    newest: pl.DataFrame


def units(aggregate: Aggregate) -> pl.Expr:
    """The aggregated column in whole multiples of the resolution, int64; null and non-finite give null."""
    value = pl.col(aggregate.column).cast(pl.Float64)
    scaled = (value / aggregate.resolution).round(0, mode="half_to_even")
    return pl.when(value.is_finite()).then(scaled).cast(pl.Int64, strict=False)


def prepare(view: FeatureView, events: pl.DataFrame) -> Prepared:
    """Sort and sum up the view's events. Raises DataError for values too large for the resolution."""
    known = _normalised(view, events)
    return Prepared(totals=_totals(view, known), newest=_newest(view, known))


def lookup(view: FeatureView, prepared: Prepared, rows: pl.DataFrame) -> pl.DataFrame:
    """The view's features for each row of ``rows`` (key columns and ``as_of``), in the order of the rows.

    A row with a null key or null ``as_of`` gets nulls. A key without events gets count 0, sum 0 and nulls.
    """
    asked = rows.select(*(pl.col(key).cast(pl.String) for key in view.entity.keys), pl.col(AS_OF).cast(INSTANT))
    asked = asked.with_row_index(_ROW)
    usable = asked.drop_nulls()
    found = usable.select(_ROW)
    if view.aggregates:
        found = found.join(_windows(view, prepared.totals, usable), on=_ROW)
    if view.latest:
        found = found.join(_latest(view, prepared.newest, usable), on=_ROW)
    columns = [column.name for column in view.columns]
    return asked.select(_ROW).join(found, on=_ROW, how="left", maintain_order="left").select(columns)


def join(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """``lookup`` after ``prepare``, for one use."""
    return lookup(view, prepare(view, events), rows)


def _normalised(view: FeatureView, events: pl.DataFrame) -> pl.DataFrame:
    """Events with their keys as strings, sorted by known-at time; those never known, or keyless, left out."""
    missing = [c for c in view.source_columns if c not in events.columns]
    if missing:
        raise DataError(f"feature view {view.name!r} needs columns {missing}, which source {view.source!r} lacks")
    keys = [pl.col(key).cast(pl.String) for key in view.entity.keys]
    times = [pl.col(view.known_at).cast(INSTANT).alias(_AT), pl.col(view.event_time).cast(INSTANT).alias("__event")]
    taken = events.with_columns(*keys, *times).drop_nulls([*view.entity.keys, _AT, "__event"])
    return taken.filter(pl.col("__event") <= pl.col(_AT)).sort(_AT, maintain_order=True)


def _totals(view: FeatureView, known: pl.DataFrame) -> pl.DataFrame:
    keys = list(view.entity.keys)
    columns = {a.column: a for a in view.aggregates}
    whole = known.select(*keys, _AT, *(units(a).alias(name) for name, a in columns.items()))
    for name, aggregate in columns.items():
        largest = whole.get_column(name).abs().max()
        if isinstance(largest, int) and largest > _MAX_UNITS:
            raise DataError(
                f"feature view {view.name!r}: a value of {name!r} is too large for resolution {aggregate.resolution}",
                "declare a coarser resolution on its aggregates",
            )
    running = [pl.col(name).fill_null(0).cum_sum().over(keys).alias(f"__sum_{name}") for name in columns]
    running += [pl.col(name).is_not_null().cast(pl.Int64).cum_sum().over(keys).alias(f"__n_{name}") for name in columns]
    # Among events known at the same instant only the last has all of them in its totals.
    return whole.with_columns(running).drop(list(columns)).unique([*keys, _AT], keep="last", maintain_order=True)


def _newest(view: FeatureView, known: pl.DataFrame) -> pl.DataFrame:
    keys = list(view.entity.keys)
    values = [pl.col(f.column).alias(f.name) for f in view.latest]
    # An event that was older than one already known never becomes the newest.
    leading = pl.col("__event") >= pl.col("__event").cum_max().over(keys)
    kept = known.filter(leading).sort(_AT, "__event", maintain_order=True)
    return kept.unique([*keys, _AT], keep="last", maintain_order=True).select(*keys, _AT, "__event", *values)


def _as_of(asked: pl.DataFrame, events: pl.DataFrame, keys: list[str], at: pl.Expr) -> pl.DataFrame:
    left = asked.with_columns(at.alias("__t")).sort("__t")
    return left.join_asof(events, left_on="__t", right_on=_AT, by=keys, strategy="backward", check_sortedness=False)


def _windows(view: FeatureView, totals: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    keys = list(view.entity.keys)
    upto = _as_of(asked, totals, keys, pl.col(AS_OF))
    features = upto.select(_ROW)
    for window in dict.fromkeys(a.window for a in view.aggregates):
        before = _as_of(asked, totals, keys, pl.col(AS_OF) - window)
        pair = upto.join(before, on=_ROW, suffix="_before")
        wanted = [_aggregate(a) for a in view.aggregates if a.window == window]
        features = features.join(pair.select(_ROW, *wanted), on=_ROW)
    return features


def _aggregate(aggregate: Aggregate) -> pl.Expr:
    def grown(total: str) -> pl.Expr:
        name = f"__{total}_{aggregate.column}"
        return pl.col(name).fill_null(0) - pl.col(f"{name}_before").fill_null(0)

    count, total = grown("n"), grown("sum").cast(pl.Float64) * aggregate.resolution
    if aggregate.op == "count":
        return count.cast(pl.Float64).alias(aggregate.name)
    if aggregate.op == "sum":
        return total.alias(aggregate.name)
    return pl.when(count > 0).then(total / count.cast(pl.Float64)).alias(aggregate.name)


def _latest(view: FeatureView, newest: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    found = _as_of(asked, newest, list(view.entity.keys), pl.col(AS_OF))
    names = [f.name for f in view.latest]
    if view.ttl is not None:
        fresh = pl.col("__event") > pl.col(AS_OF) - view.ttl
        found = found.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in names)
    return found.select(_ROW, *(_typed(pl.col(f.name), f.kind) for f in view.latest))


def _typed(value: pl.Expr, kind: str) -> pl.Expr:
    return value.cast(pl.String) if kind == "category" else value.cast(pl.Float64).fill_nan(None)
