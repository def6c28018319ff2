"""Materializes source events as online state: in the order in which they count, in chunks, each event once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import polars as pl

from features.definitions import FeatureView
from features.events.event_history import EVENT_TIME, KNOWN_AT, TIE_BREAKER, build_history, seen_at
from features.online.keys import state_keys, state_prefix
from features.online.state_codec import MAX_LATENESS_US, NEVER, StateLayout
from features.online.store import OnlineStore, StateMap

_WATERMARK = b"watermark/"
_POSITION = b"position/"
_TABLE_POSITION = b"table/"
_CORRECTIONS = b"corrections/"

Stored = Mapping[bytes, bytes | None]
"""Values of the store by key."""

# Events of one transaction. An entity with events in several chunks is written several times.
CHUNK_EVENTS = 1 << 19
# Entity codes stay below this number, so that arrays by entity stay small.
MAX_CODES = 1 << 22


def watermark(store: StateMap, view: FeatureView) -> int | None:
    """Return from when the newest event in the view's state counts, in epoch microseconds; None without state."""
    (stored,) = store.get_many([watermark_key(view)])
    return int(stored) if stored else None


def watermark_key(view: FeatureView) -> bytes:
    """Return the key of a view's watermark."""
    return _WATERMARK + state_prefix(view)


def table_position_key(view: FeatureView) -> bytes:
    """Return the key under which is stored until when the view's table was applied; pushed events do not move it."""
    return _TABLE_POSITION + state_prefix(view)


def corrections_key(view: FeatureView) -> bytes:
    """Return the key under which is stored up to which snapshot the view's table was corrected."""
    return _CORRECTIONS + state_prefix(view)


def materialize(store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int) -> int:
    """Update the view's state with events of its source.

    Events up to the watermark count as known, so that a second run, after a failure, at the same time or with a longer
    table, applies no event twice. A chunk and its watermark are written in one transaction.

    Args:
        store: The online store.
        view: The view.
        events: Rows of its source, old and new.
        until_us: Leave out events that count later, microseconds since the epoch.

    Returns:
        The number of new events.
    """
    return materialize_history(store, view, build_history(view, events), until_us)


def push(
    store: OnlineStore,
    view: FeatureView,
    events: pl.DataFrame,
    producer: str = "",
    position: int | None = None,
    until_us: int | None = None,
) -> int:
    """Add events as they happen, in any order.

    Late events are inserted where they belong. Afterwards, ``materialize`` treats table events up to the newest pushed
    one as known.

    Args:
        store: The online store.
        view: The view.
        events: New rows of its source.
        producer: Name of what delivers the events, such as a partition of a log.
        position: Position of the batch, such as its last offset, which must grow from one call of a producer to the
            next. A batch that is delivered again is ignored.
        until_us: Leave out events that count later, microseconds since the epoch.

    Returns:
        The number of events that were added.
    """
    history = _sort(view, build_history(view, events))
    if until_us is not None:
        history = history.filter(pl.col(KNOWN_AT) <= until_us)
    events_by_key, added = _EventsByKey.build(view, history), 0
    mark = _POSITION + state_prefix(view) + producer.encode()

    def change(values: Stored) -> dict[bytes, bytes]:
        nonlocal added
        known = values[mark]
        is_known = position is not None and known is not None and position <= int(known)
        added = 0 if is_known else history.height
        return {} if is_known else events_by_key.updates(values) | marks

    marks = {} if position is None else {mark: b"%d" % position}
    _update(store, view, [*events_by_key.keys, mark], change)
    return added


def new_events(view: FeatureView, events: pl.DataFrame, since_us: int | None, until_us: int) -> pl.DataFrame:
    """Return the history of the events that count after ``since_us``, and at ``until_us`` at the latest, unsorted.

    Of rows with versions, these are the ones known at ``until_us``.
    """
    return _between(build_history(view, events), since_us, until_us)


def history_until(view: FeatureView, events: pl.DataFrame, until_us: int) -> pl.DataFrame:
    """Return the history of the events that count at ``until_us`` at the latest, with all versions of rows."""
    return build_history(view, events).filter(pl.col(KNOWN_AT) <= until_us)


def materialize_history(store: OnlineStore, view: FeatureView, history: pl.DataFrame, until_us: int) -> int:
    """``materialize`` for a history."""
    return apply_events(store, view, _between(history, watermark(store, view), until_us))


def apply_events(store: StateMap, view: FeatureView, history: pl.DataFrame) -> int:
    """Add a history of events later than all in the store, chunk by chunk; returns their number.

    A chunk that another process adds at the same time counts once.
    """
    known = sum(_apply_chunk(store, view, chunk) for chunk in _chunks(_sort(view, _prune(view, history))))
    return history.height - known


def _apply_chunk(store: StateMap, view: FeatureView, chunk: pl.DataFrame) -> int:
    """Add a chunk, and return how many of its events another process had added meanwhile."""
    events_by_key, known = _EventsByKey.build(view, chunk), 0
    first, last, mark = int(chunk.item(0, KNOWN_AT)), int(chunk.item(-1, KNOWN_AT)), table_position_key(view)

    def change(values: Stored) -> dict[bytes, bytes]:
        nonlocal known
        stored, new = values[mark], events_by_key
        if stored is not None and int(stored) >= first:
            new = _EventsByKey.build(view, chunk.filter(pl.col(KNOWN_AT) > int(stored)))
        known = chunk.height - new.rows.height
        return new.updates(values) | ({mark: b"%d" % last} if new.rows.height else {})

    _update(store, view, [*events_by_key.keys, mark], change)
    return known


def _between(history: pl.DataFrame, since_us: int | None, until_us: int) -> pl.DataFrame:
    history, selected = seen_at(history, until_us), pl.col(KNOWN_AT) <= until_us
    return history.filter(selected if since_us is None else selected & (pl.col(KNOWN_AT) > since_us))


def delete_view_state(store: OnlineStore, view: FeatureView) -> None:
    """Delete all state of a view."""
    prefix = state_prefix(view)
    marks = [watermark_key(view), table_position_key(view), corrections_key(view)]
    store.delete([*store.keys(prefix), *store.keys(_POSITION + prefix), *marks])


def _prune(view: FeatureView, history: pl.DataFrame) -> pl.DataFrame:
    """Leave out most events that a state does not keep: to find them costs a quarter of sorting them.

    Of an entity's events that are too old for any window, those with the last time stay, and for latest the newest.
    """
    entity, at = _codes(history, view.entity.keys), history.get_column(KNOWN_AT).to_numpy()
    old = at <= _last(entity, at)[entity] - (view.max_window_us + MAX_LATENESS_US)
    if not old.any():
        return history
    stay = ~old
    for times in (at, history.get_column(EVENT_TIME).to_numpy()) if view.latest else (at,):
        stay |= times == _last(entity, np.where(old, times, NEVER))[entity]
    return history.filter(stay)


def _codes(history: pl.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """A number from 0 for each entity, int64 [events]; some numbers may be unused."""
    codes, size = np.zeros(history.height, np.int64), 1
    for key in keys:
        # Random categories, because Polars never frees shared ones.
        of_key = history.get_column(key).cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
        count = int(of_key.max(initial=0)) + 1
        codes, size = codes * count + of_key, size * count
        if size > MAX_CODES:
            known, codes = np.unique(codes, return_inverse=True)
            size = known.size
    return codes


def _last(entity: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The last time of each entity."""
    last = np.full(int(entity.max(initial=-1)) + 1, NEVER)
    np.maximum.at(last, entity, times)
    return last


def _sort(view: FeatureView, history: pl.DataFrame) -> pl.DataFrame:
    return history.sort([KNOWN_AT, TIE_BREAKER] if view.ties else [KNOWN_AT], maintain_order=True)


def _chunks(history: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Split into chunks of about CHUNK_EVENTS events; events of one time stay together, for the watermark."""
    at, start = history.get_column(KNOWN_AT).to_numpy(), 0
    while start < len(at):
        last = at[min(start + CHUNK_EVENTS, len(at)) - 1]
        end = int(np.searchsorted(at, last, side="right"))
        yield history.slice(start, end - start)
        start = end


def _update(
    store: StateMap, view: FeatureView, keys: Sequence[bytes], change: Callable[[Stored], dict[bytes, bytes]]
) -> None:
    """Update the view; ``change`` gets the values of the keys and of the watermark by key."""
    wanted = [*keys, watermark_key(view)]
    store.update(watermark_key(view), wanted, lambda values: change(dict(zip(wanted, values, strict=True))))


class _EventsByKey(NamedTuple):
    """Sorted events, and the keys of their entities' states."""

    view: FeatureView
    rows: pl.DataFrame
    entity: np.ndarray
    """Number of each event's entity."""
    keys: list[bytes]
    """Key of each entity's state."""

    @classmethod
    def build(cls, view: FeatureView, rows: pl.DataFrame) -> Self:
        entity, names = _entities(view, rows)
        return cls(view, rows, entity, state_keys(state_prefix(view), names))

    def updates(self, stored: Stored) -> dict[bytes, bytes]:
        """Return the states that the events change, and the watermark.

        The watermark is the newest event's time, not the end of the period: events before that may still arrive.
        """
        if self.rows.is_empty():
            return {}
        layout, kept = StateLayout(self.view), _kept_events(self.view, self.rows, self.entity)
        states = layout.extend(
            [stored[key] or layout.empty for key in self.keys],
            layout.encode_events(self.rows[kept], self.entity[kept]),
        )
        mark = watermark_key(self.view)
        newest = max(int(self.rows.item(-1, KNOWN_AT)), int(stored[mark] or NEVER))
        return dict(zip(self.keys, states, strict=True)) | {mark: b"%d" % newest}


def _kept_events(view: FeatureView, chunk: pl.DataFrame, entity: np.ndarray) -> np.ndarray:
    """Positions of the events that a state keeps.

    Of an entity's events that are too old for any window, these are the last one, which says until when events are
    gone, and the newest one, for latest.
    """
    at = chunk.get_column(KNOWN_AT).to_numpy()
    newest = np.empty(int(entity.max()) + 1, np.int64)
    # In time order, so that the newest is written last.
    newest[entity] = at
    old = at <= (newest - view.max_window_us - MAX_LATENESS_US)[entity]
    dropped_index = np.flatnonzero(old)
    stays = ~old
    stays[_last_of_each(dropped_index, entity)] = True
    if view.latest:
        by_event = np.argsort(chunk.get_column(EVENT_TIME).to_numpy()[dropped_index], kind="stable")
        stays[_last_of_each(dropped_index[by_event], entity)] = True
    return np.flatnonzero(stays)


def _last_of_each(events: np.ndarray, entity: np.ndarray) -> np.ndarray:
    last = np.full(int(entity.max()) + 1, -1)
    last[entity[events]] = events
    return last[last >= 0]


def _entities(view: FeatureView, chunk: pl.DataFrame) -> tuple[np.ndarray, list[list[str]]]:
    """Number of each event's entity, and each entity's keys by column."""
    keys = chunk.select(view.entity.keys)
    known = keys.unique(maintain_order=True).with_row_index("__entity")
    entity = keys.join(known, on=view.entity.keys, maintain_order="left").get_column("__entity").to_numpy()
    return entity.astype(np.int64), [known.get_column(key).to_list() for key in view.entity.keys]
