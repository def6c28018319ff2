"""The point-in-time join: what was known of an entity at the time of each row. Pure.

Windows count what *became known* in (t - window, t]. Events are sorted by entity and known-at time once; a window is
then a range of positions, found by bisection, and an aggregate is a query over ranges
(features/offline/window_aggregates.py). The cost is that of sorting, regardless of the windows.

Of a row with several versions, the newest one that is known at t counts, at the place of its own times. A version that
nothing replaces is part of a range, whose start goes by these times and whose end by when the versions are known;
features/offline/version_overlay.py has the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from features.definitions import FeatureView, Latest, require_present
from features.events.event_history import (
    EVENT_TIME,
    KNOWN_AT,
    SEEN_FROM,
    TIE_BREAKER,
    build_history,
    epoch_us,
    key_as_text,
    latest_column,
)
from features.offline.entity_timeline import Timeline, merge_timeline
from features.offline.version_overlay import (
    MAX_PAIRS,
    ORDER,
    Pairs,
    VersionOverlay,
    merge_equal_versions,
    split_in_order,
)
from features.offline.window_aggregates import ColumnIndex, index_column
from features.types import AS_OF, INSTANT

_CODE, _MERGED = "__code", "__merged"


@dataclass(frozen=True)
class EventIndex:
    """The events of one view, sorted by entity and time. Immutable, so that lookups can share it."""

    entities: pl.DataFrame
    """Key columns, and the code of each entity."""
    timeline: Timeline
    """From when each event counts."""
    seen: Timeline
    """From when each event is seen: the same, unless there are versions."""
    columns: dict[str, ColumnIndex]
    """Aggregated columns."""
    latest_index: np.ndarray
    """At each event, the position of the newest event of its entity so far, int64 [events]; empty without latest."""
    event_times: np.ndarray
    """Event time of each event, int64 [events]; empty without latest."""
    latest_values: pl.DataFrame
    """Values of each event for latest; then of each version of the overlay."""
    overlay: _Overlay | None = None


@dataclass(frozen=True)
class _Overlay:
    """Versions outside the order of the events; those for latest are sorted by event time."""

    of_windows: VersionOverlay
    of_latest: VersionOverlay
    order: np.ndarray
    """Place of each event among all events and versions, int64 [events]."""


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
    keys, has_versions = list(view.entity.keys), SEEN_FROM in history.columns
    if has_versions:
        ties = [*keys, EVENT_TIME, KNOWN_AT, *([TIE_BREAKER] if view.ties else [])]
        history = merge_equal_versions(history, ties if view.latest else ())
    entities = history.select(keys).unique().with_row_index(_CODE)
    coded = history.join(entities, on=keys, how="left", maintain_order="left").drop(keys)
    merged, first, span = merge_timeline(coded.get_column(_CODE), coded.get_column(KNOWN_AT), entities.height)
    by = [_CODE, KNOWN_AT] if merged is None else [_MERGED]
    with_position = coded if merged is None else coded.with_columns(merged.alias(_MERGED))
    # Equal events keep the order of the source, which decides last.
    events = with_position.sort(*by, *([TIE_BREAKER] if view.ties else []), maintain_order=True)
    events, versions = split_in_order(events, _CODE) if has_versions else (events, None)
    # One more entity without events, for rows whose entity is unknown.
    starts = np.searchsorted(events.get_column(_CODE).to_numpy(), np.arange(entities.height + 2))
    positions = None if merged is None else events.get_column(_MERGED).to_numpy()
    timeline = Timeline(starts, events.get_column(KNOWN_AT).to_numpy(), positions, first, span)
    aggregated = {a.column for a in view.aggregates}
    by_event = None if versions is None else versions.sort(_CODE, EVENT_TIME, ORDER)
    valued = events if by_event is None else pl.concat([events, by_event])
    return EventIndex(
        entities=entities,
        timeline=timeline,
        seen=_seen_timeline(events, starts, entities.height) if has_versions else timeline,
        columns={column: index_column(view, column, events, _CODE, versions) for column in aggregated},
        latest_index=_latest_index(events) if view.latest else np.empty(0, np.int64),
        event_times=valued.get_column(EVENT_TIME).to_numpy() if view.latest else np.empty(0, np.int64),
        latest_values=valued.select(latest_column(f) for f in view.latest),
        overlay=_overlay(events, versions, by_event, entities.height),
    )


def _seen_timeline(events: pl.DataFrame, starts: np.ndarray, entities: int) -> Timeline:
    merged, first, span = merge_timeline(events.get_column(_CODE), events.get_column(SEEN_FROM), entities)
    keys = None if merged is None else merged.to_numpy()
    return Timeline(starts, events.get_column(SEEN_FROM).to_numpy(), keys, first, span)


def _overlay(
    events: pl.DataFrame, versions: pl.DataFrame | None, by_event: pl.DataFrame | None, entities: int
) -> _Overlay | None:
    if versions is None or by_event is None or versions.is_empty():
        return None
    return _Overlay(
        VersionOverlay.build(versions, versions.get_column(_CODE), KNOWN_AT, entities),
        VersionOverlay.build(by_event, by_event.get_column(_CODE), EVENT_TIME, entities),
        events.get_column(ORDER).cast(pl.Int64).to_numpy(),
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
    ranges = _overlay_ranges(view, index, queries)
    if ranges is not None and rows.height > 1 and int((ranges[1] - ranges[0]).sum()) > MAX_PAIRS:
        half = rows.height // 2
        return pl.concat([look_up_features(view, index, part) for part in (rows.head(half), rows.tail(-half))])
    windows = {a.window_us for a in view.aggregates}
    # An event that is seen much later than it counts from may lie before its window when it is seen.
    ends = {w: index.timeline.range_ends(queries.codes, queries.times - w) for w in windows}
    lows = {w: np.minimum(end, queries.end) for w, end in ends.items()}
    pairs = _pairs_by_window(view, index, queries, ranges)
    features = []
    for aggregate in view.aggregates:
        low, seen = lows[aggregate.window_us], pairs.get(aggregate.window_us)
        values = index.columns[aggregate.column].aggregate(aggregate, low, queries.end, seen)
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
    return _Queries(order, codes, timeline.starts[codes], index.seen.range_ends(codes, times), times, usable[order])


def _overlay_ranges(view: FeatureView, index: EventIndex, queries: _Queries) -> tuple[np.ndarray, np.ndarray] | None:
    """The versions in the longest window of each row."""
    if index.overlay is None or not view.aggregates:
        return None
    return index.overlay.of_windows.ranges(queries.codes, queries.times - view.max_window_us, queries.times)


def _pairs_by_window(
    view: FeatureView, index: EventIndex, queries: _Queries, ranges: tuple[np.ndarray, np.ndarray] | None
) -> dict[int, Pairs]:
    if index.overlay is None or ranges is None:
        return {}
    versions = index.overlay.of_windows
    pairs = versions.pairs(*ranges, queries.times)
    return {w: pairs.since(versions.times, queries.times - w) for w in {a.window_us for a in view.aggregates}}


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
    if index.overlay is not None:
        order = np.full(present.size, -1)
        order[present] = index.overlay.order[positions[present]]
        event_times = np.zeros(present.size, np.int64)
        event_times[present] = index.event_times[positions[present]]
        rows, versions = index.overlay.of_latest.newest(queries.codes, queries.times, event_times, order)
        positions[rows], present[rows] = index.overlay.order.size + versions, True
        present &= queries.usable
    if view.ttl_us is not None:
        present[present] = index.event_times[positions[present]] > queries.times[present] - view.ttl_us
    chosen = pl.Series(queries.in_row_order(positions)).set(pl.Series(queries.in_row_order(~present)), None)
    return [_typed(f, index.latest_values.get_column(latest_column(f)).gather(chosen)) for f in view.latest]


def _typed(latest: Latest, values: pl.Series) -> pl.Series:
    times = latest.kind == "timestamp"
    return (values.cast(pl.Int64).cast(INSTANT) if times else values).alias(latest.name)
