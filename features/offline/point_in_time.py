"""The point-in-time join: what was known of an entity at the time of each row. Pure.

Windows count what *became known* in (t - window, t]. Events are sorted by entity and known-at time once; a window is
then a range of positions, found by bisection, and an aggregate is a query over ranges
(features/offline/window_aggregates.py). The cost is that of sorting, regardless of the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from features.definitions import FeatureView, require_present
from features.events.event_history import (
    EVENT_TIME,
    KNOWN_AT,
    TIE_BREAKER,
    build_history,
    epoch_us,
    key_as_text,
    latest_column,
)
from features.offline.entity_timeline import Timeline, merge_timeline
from features.offline.window_aggregates import ColumnIndex, index_column
from features.types import AS_OF

_CODE, _MERGED = "__code", "__merged"


@dataclass(frozen=True)
class EventIndex:
    """The events of one view, sorted by entity and time. Immutable, so that lookups can share it."""

    entities: pl.DataFrame
    """Key columns, and the code of each entity."""
    timeline: Timeline
    """From when each event counts."""
    columns: dict[str, ColumnIndex]
    """Aggregated columns."""
    latest_index: np.ndarray
    """At each event, the position of the newest event of its entity so far, int64 [events]; empty without latest."""
    event_times: np.ndarray
    """Event time of each event, int64 [events]; empty without latest."""
    latest_values: pl.DataFrame
    """Values of each event for latest."""


def index_events(view: FeatureView, events: pl.DataFrame) -> EventIndex:
    """Index events for lookups.

    Args:
        view: The view.
        events: Rows of its source.

    Raises:
        DataError: The rows cannot be converted to a history, or a value is too large for its resolution.
    """
    return build_index(view, build_history(view, events))


def build_index(view: FeatureView, history: pl.DataFrame) -> EventIndex:
    """``index_events`` for a history."""
    keys = list(view.entity.keys)
    entities = history.select(keys).unique().with_row_index(_CODE)
    coded = history.join(entities, on=keys, how="left", maintain_order="left").drop(keys)
    merged, first, span = merge_timeline(coded.get_column(_CODE), coded.get_column(KNOWN_AT), entities.height)
    by = [_CODE, KNOWN_AT] if merged is None else [_MERGED]
    with_position = coded if merged is None else coded.with_columns(merged.alias(_MERGED))
    # Equal events keep the order of the source, which decides last.
    events = with_position.sort(*by, *([TIE_BREAKER] if view.ties else []), maintain_order=True)
    # One more entity without events, for rows whose entity is unknown.
    starts = np.searchsorted(events.get_column(_CODE).to_numpy(), np.arange(entities.height + 2))
    positions = None if merged is None else events.get_column(_MERGED).to_numpy()
    return EventIndex(
        entities=entities,
        timeline=Timeline(starts, events.get_column(KNOWN_AT).to_numpy(), positions, first, span),
        columns={column: index_column(view, column, events, _CODE) for column in {a.column for a in view.aggregates}},
        latest_index=_latest_index(events) if view.latest else np.empty(0, np.int64),
        event_times=events.get_column(EVENT_TIME).to_numpy() if view.latest else np.empty(0, np.int64),
        latest_values=events.select(latest_column(f) for f in view.latest),
    )


def look_up_features(view: FeatureView, index: EventIndex, rows: pl.DataFrame) -> pl.DataFrame:
    """Look up the view's features for rows.

    Args:
        view: The view.
        index: Its events.
        rows: Key columns and ``as_of``.

    Returns:
        The view's columns, in the order of the rows. A row with a null key or null ``as_of`` has nulls; a key without
        events has count 0, sum 0 and nulls.

    Raises:
        DataError: A column is missing, times have no zone, keys are floats, or a sum may exceed 64 bits.
    """
    queries = _queries(view, index, rows)
    windows = {a.window_us for a in view.aggregates}
    lows = {w: index.timeline.range_ends(queries.codes, queries.times - w) for w in windows}
    features = []
    for aggregate in view.aggregates:
        values = index.columns[aggregate.column].aggregate(aggregate, lows[aggregate.window_us], queries.end)
        # No feature is ever NaN, since values are finite: NaN represents null.
        cells = queries.in_row_order(np.where(queries.usable, values, np.nan))
        features.append(pl.Series(aggregate.name, cells).fill_nan(None))
    return pl.DataFrame(features + _latest(view, index, queries))


def join(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Index the events and look up the rows, for one use."""
    return look_up_features(view, index_events(view, events), rows)


@dataclass(frozen=True)
class _Queries:
    """Rows as ranges [start, end) of events: those of the row's entity that count at its time.

    All arrays are in the ``order`` of the timeline. ``times`` are the last microseconds that count; ``usable`` is
    false for a row without key or time.
    """

    order: np.ndarray
    codes: np.ndarray
    start: np.ndarray
    end: np.ndarray
    times: np.ndarray
    usable: np.ndarray

    def in_row_order(self, cells: np.ndarray) -> np.ndarray:
        restored = np.empty_like(cells)
        restored[self.order] = cells
        return restored


def _queries(view: FeatureView, index: EventIndex, rows: pl.DataFrame) -> _Queries:
    where, keys = f"rows for feature view {view.name!r}", list(view.entity.keys)
    require_present((*keys, AS_OF), rows.columns, where, view=view.name)
    at = epoch_us(rows.schema, AS_OF, where, up=False)
    key_columns = rows.select(*(key_as_text(rows.schema, key, where) for key in keys), at.alias(KNOWN_AT))
    coded = key_columns.join(index.entities, on=keys, how="left", maintain_order="left")
    codes = coded.get_column(_CODE).fill_null(index.entities.height).cast(pl.Int64).to_numpy()
    times = coded.get_column(KNOWN_AT).fill_null(0).to_numpy() - int(view.strict)
    usable = key_columns.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    timeline = index.timeline
    order = timeline.sort_order(codes, times)
    codes, times = codes[order], times[order]
    return _Queries(order, codes, timeline.starts[codes], timeline.range_ends(codes, times), times, usable[order])


def _latest_index(history: pl.DataFrame) -> np.ndarray:
    # Among equal times the last one leads, by the sort. The first event of an entity always leads, so no event of
    # another entity is carried over.
    leads = history.select(pl.col(EVENT_TIME) >= pl.col(EVENT_TIME).cum_max().over(_CODE)).to_series().to_numpy()
    return np.maximum.accumulate(np.where(leads, np.arange(leads.size), 0))


def _latest(view: FeatureView, index: EventIndex, queries: _Queries) -> list[pl.Series]:
    if not view.latest:
        return []
    present = queries.usable & (queries.end > queries.start)
    positions = np.zeros(present.size, np.int64)
    positions[present] = index.latest_index[queries.end[present] - 1]
    if view.ttl_us is not None:
        present[present] = index.event_times[positions[present]] > queries.times[present] - view.ttl_us
    rows = pl.Series(queries.in_row_order(positions)).set(pl.Series(queries.in_row_order(~present)), None)
    return [index.latest_values.get_column(latest_column(f)).gather(rows).alias(f.name) for f in view.latest]
