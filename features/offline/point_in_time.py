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
from features.events.event_history import AT, EVENT, TIE, history, instants, key_text, newest_of
from features.offline.entity_timeline import Timeline, along
from features.offline.window_aggregates import Values, values
from features.types import AS_OF

_CODE, _LINE = "__code", "__line"


@dataclass(frozen=True)
class Prepared:
    """The events of one view, sorted by entity and time; immutable, to be shared by all who look up.

    ``entities`` has the key columns and a code; ``timeline`` is from when each event counts. ``leaders`` [n] is where the newest event stands among those of its entity
    up to it; ``happened`` [n] and ``newest`` have the event times and values to be found there.
    """

    entities: pl.DataFrame
    timeline: Timeline
    values: dict[str, Values]
    leaders: np.ndarray
    happened: np.ndarray
    newest: pl.DataFrame


def prepare(view: FeatureView, events: pl.DataFrame) -> Prepared:
    """Sort and sum up the view's events, rows of its source. Raises DataError for what history() or units() refuses."""
    return arrange(view, history(view, events))


def arrange(view: FeatureView, known: pl.DataFrame) -> Prepared:
    """``prepare`` for a history."""
    keys = list(view.entity.keys)
    entities = known.select(keys).unique().with_row_index(_CODE)
    coded = known.join(entities, on=keys, how="left", maintain_order="left").drop(keys)
    line, first, span = along(coded.get_column(_CODE), coded.get_column(AT), entities.height)
    by = [_CODE, AT] if line is None else [_LINE]
    lined = coded if line is None else coded.with_columns(line.alias(_LINE))
    # Equals stay in the order of the source, which is the last resort of the rule for ties.
    ordered = lined.sort(*by, *([TIE] if view.ties else []), maintain_order=True)
    # One more, where there is nothing, for the rows whose entity is not known.
    starts = np.searchsorted(ordered.get_column(_CODE).to_numpy(), np.arange(entities.height + 2))
    places = None if line is None else ordered.get_column(_LINE).to_numpy()
    return Prepared(
        entities=entities,
        timeline=Timeline(starts, ordered.get_column(AT).to_numpy(), places, first, span),
        values={column: values(view, column, ordered, _CODE) for column in {a.column for a in view.aggregates}},
        leaders=_leaders(ordered) if view.latest else np.empty(0, np.int64),
        happened=ordered.get_column(EVENT).to_numpy() if view.latest else np.empty(0, np.int64),
        newest=ordered.select(newest_of(f) for f in view.latest),
    )


def lookup(view: FeatureView, prepared: Prepared, rows: pl.DataFrame) -> pl.DataFrame:
    """The view's features for each row of ``rows`` (key columns and ``as_of``), in the order of the rows.

    A row with a null key or null ``as_of`` gets nulls. A key without events gets count 0, sum 0 and nulls.
    Raises DataError for times without a zone, keys that are floats, and sums that may leave 64 bits.
    """
    asked = _asked(view, prepared, rows)
    lows = {w: prepared.timeline.upto(asked.codes, asked.at - w) for w in {a.window_us for a in view.aggregates}}
    features = []
    for aggregate in view.aggregates:
        found = prepared.values[aggregate.column].over(aggregate, lows[aggregate.window_us], asked.end)
        # No feature is ever NaN, as values are finite: NaN stands for null.
        cells = asked.back(np.where(asked.usable, found, np.nan))
        features.append(pl.Series(aggregate.name, cells).fill_nan(None))
    return pl.DataFrame(features + _latest(view, prepared, asked))


def join(view: FeatureView, events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """``lookup`` after ``prepare``, for one use."""
    return lookup(view, prepare(view, events), rows)


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


def _asked(view: FeatureView, prepared: Prepared, rows: pl.DataFrame) -> _Asked:
    where, keys = f"rows that ask for feature view {view.name!r}", list(view.entity.keys)
    if missing := [column for column in (*keys, AS_OF) if column not in rows.columns]:
        raise DataError(f"{where} lack the columns {', '.join(missing)}")
    at = instants(rows.schema, AS_OF, where, up=False)
    named = rows.select(*(key_text(rows.schema, key, where) for key in keys), at.alias(AT))
    found = named.join(prepared.entities, on=keys, how="left", maintain_order="left")
    codes = found.get_column(_CODE).fill_null(prepared.entities.height).cast(pl.Int64).to_numpy()
    moments = found.get_column(AT).fill_null(0).to_numpy() - int(view.strict)
    usable = named.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    line = prepared.timeline
    order = line.order(codes, moments)
    codes, moments = codes[order], moments[order]
    return _Asked(order, codes, line.starts[codes], line.upto(codes, moments), moments, usable[order])


def _leaders(ordered: pl.DataFrame) -> np.ndarray:
    # Of equals the last one, by the sort. The first event of an entity leads, so that none of another one is carried on.
    leads = ordered.select(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(_CODE)).to_series().to_numpy()
    return np.maximum.accumulate(np.where(leads, np.arange(leads.size), 0))


def _latest(view: FeatureView, prepared: Prepared, asked: _Asked) -> list[pl.Series]:
    if not view.latest:
        return []
    there = asked.usable & (asked.end > asked.start)
    leader = np.zeros(there.size, np.int64)
    leader[there] = prepared.leaders[asked.end[there] - 1]
    if view.ttl_us is not None:
        there[there] = prepared.happened[leader[there]] > asked.at[there] - view.ttl_us
    places = pl.Series(asked.back(leader)).set(pl.Series(asked.back(~there)), None)
    return [prepared.newest.get_column(newest_of(f)).gather(places).alias(f.name) for f in view.latest]
