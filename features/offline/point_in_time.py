"""The point-in-time join: what was known of an entity at the time of each row. Pure.

Windows count what *became known* in (t - window, t]. Events are sorted by entity and known-at time once; a window is
then a range of positions, found by bisection, and an aggregate a question about ranges (features/offline/window_aggregates.py). The
cost is that of sorting, whatever the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from cluster.errors import DataError
from features.definitions import FeatureView
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

_CODE, _LINE = "__code", "__line"


@dataclass(frozen=True)
class EventIndex:
    """The events of one view, sorted by entity and time; immutable, to be shared by all who look up.

    ``entities`` has the key columns and a code; ``timeline`` is from when each event counts. ``latest_index`` [n] is where the newest event stands among those of its entity
    up to it; ``event_times`` [n] and ``latest_values`` have the event times and values to be found there.
    """

    entities: pl.DataFrame
    timeline: Timeline
    columns: dict[str, ColumnIndex]
    latest_index: np.ndarray
    event_times: np.ndarray
    latest_values: pl.DataFrame


def index_events(view: FeatureView, events: pl.DataFrame) -> EventIndex:
    """Sort and sum up the view's events, rows of its source. Raises DataError for what history() or units() refuses."""
    return build_index(view, build_history(view, events))


def build_index(view: FeatureView, known: pl.DataFrame) -> EventIndex:
    """``prepare`` for a history."""
    keys = list(view.entity.keys)
    entities = known.select(keys).unique().with_row_index(_CODE)
    coded = known.join(entities, on=keys, how="left", maintain_order="left").drop(keys)
    line, first, span = merge_timeline(coded.get_column(_CODE), coded.get_column(KNOWN_AT), entities.height)
    by = [_CODE, KNOWN_AT] if line is None else [_LINE]
    lined = coded if line is None else coded.with_columns(line.alias(_LINE))
    # Equals stay in the order of the source, which is the last resort of the rule for ties.
    ordered = lined.sort(*by, *([TIE_BREAKER] if view.ties else []), maintain_order=True)
    # One more, where there is nothing, for the rows whose entity is not known.
    starts = np.searchsorted(ordered.get_column(_CODE).to_numpy(), np.arange(entities.height + 2))
    places = None if line is None else ordered.get_column(_LINE).to_numpy()
    return EventIndex(
        entities=entities,
        timeline=Timeline(starts, ordered.get_column(KNOWN_AT).to_numpy(), places, first, span),
        columns={column: index_column(view, column, ordered, _CODE) for column in {a.column for a in view.aggregates}},
        latest_index=_leaders(ordered) if view.latest else np.empty(0, np.int64),
        event_times=ordered.get_column(EVENT_TIME).to_numpy() if view.latest else np.empty(0, np.int64),
        latest_values=ordered.select(latest_column(f) for f in view.latest),
    )


def look_up_features(view: FeatureView, prepared: EventIndex, rows: pl.DataFrame) -> pl.DataFrame:
    """The view's features for each row of ``rows`` (key columns and ``as_of``), in the order of the rows.

    A row with a null key or null ``as_of`` gets nulls. A key without events gets count 0, sum 0 and nulls.
    Raises DataError for times without a zone, keys that are floats, and sums that may leave 64 bits.
    """
    asked = _asked(view, prepared, rows)
    lows = {w: prepared.timeline.range_ends(asked.codes, asked.at - w) for w in {a.window_us for a in view.aggregates}}
    features = []
    for aggregate in view.aggregates:
        found = prepared.columns[aggregate.column].aggregate(aggregate, lows[aggregate.window_us], asked.end)
        # No feature is ever NaN, as values are finite: NaN stands for null.
        cells = asked.back(np.where(asked.usable, found, np.nan))
        features.append(pl.Series(aggregate.name, cells).fill_nan(None))
    return pl.DataFrame(features + _latest(view, prepared, asked))


def join(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """``lookup`` after ``prepare``, for one use."""
    return look_up_features(view, index_events(view, events), rows)


@dataclass(frozen=True)
class _Asked:
    """Rows as ranges of events: those of the row's entity that count at its time, [start, end). In ``order`` of the line.

    ``at`` is the last microsecond that counts; ``usable`` is false for a row without key or time.
    """

    order: np.ndarray
    codes: np.ndarray
    start: np.ndarray
    end: np.ndarray
    at: np.ndarray
    usable: np.ndarray

    def back(self, cells: np.ndarray) -> np.ndarray:
        """Cells of the rows, in the order in which they were asked for."""
        found = np.empty_like(cells)
        found[self.order] = cells
        return found


def _asked(view: FeatureView, prepared: EventIndex, rows: pl.DataFrame) -> _Asked:
    where, keys = f"rows that ask for feature view {view.name!r}", list(view.entity.keys)
    if missing := [column for column in (*keys, AS_OF) if column not in rows.columns]:
        raise DataError(f"{where} lack the columns {', '.join(missing)}")
    at = epoch_us(rows.schema, AS_OF, where, up=False)
    named = rows.select(*(key_as_text(rows.schema, key, where) for key in keys), at.alias(KNOWN_AT))
    found = named.join(prepared.entities, on=keys, how="left", maintain_order="left")
    codes = found.get_column(_CODE).fill_null(prepared.entities.height).cast(pl.Int64).to_numpy()
    moments = found.get_column(KNOWN_AT).fill_null(0).to_numpy() - int(view.strict)
    usable = named.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    line = prepared.timeline
    order = line.sort_order(codes, moments)
    codes, moments = codes[order], moments[order]
    return _Asked(order, codes, line.starts[codes], line.range_ends(codes, moments), moments, usable[order])


def _leaders(ordered: pl.DataFrame) -> np.ndarray:
    # Of equals the last one, by the sort. The first event of an entity leads, so that none of another one is carried on.
    leads = ordered.select(pl.col(EVENT_TIME) >= pl.col(EVENT_TIME).cum_max().over(_CODE)).to_series().to_numpy()
    return np.maximum.accumulate(np.where(leads, np.arange(leads.size), 0))


def _latest(view: FeatureView, prepared: EventIndex, asked: _Asked) -> list[pl.Series]:
    if not view.latest:
        return []
    there = asked.usable & (asked.end > asked.start)
    leader = np.zeros(there.size, np.int64)
    leader[there] = prepared.latest_index[asked.end[there] - 1]
    if view.ttl_us is not None:
        there[there] = prepared.event_times[leader[there]] > asked.at[there] - view.ttl_us
    places = pl.Series(asked.back(leader)).set(pl.Series(asked.back(~there)), None)
    return [prepared.latest_values.get_column(latest_column(f)).gather(places).alias(f.name) for f in view.latest]
