"""From source events to online state: in the order in which they count, in chunks, each event once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from features.definitions import FeatureView
from features.events.event_history import EVENT_TIME, KNOWN_AT, TIE_BREAKER, build_history
from features.online.keys import state_prefix, view_state_keys
from features.online.state_codec import MAX_LATENESS_US, NEVER, StateLayout
from features.online.store import OnlineStore

_WATERMARK = b"watermark/"
_POSITION = b"position/"

# Events of one transaction. An entity that has events in several is written as often.
_CHUNK = 1 << 19
_MAX_CODES = 1 << 22


def watermark(store: OnlineStore, view: FeatureView) -> int | None:
    """The time (microseconds) from which the newest event counts that the view's state holds."""
    (stored,) = store.get_many([_WATERMARK + state_prefix(view)])
    return int(stored) if stored else None


def materialize(store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int) -> int:
    """Bring the view up to date with the events that count at ``until_us``; returns how many were new.

    Events that count from the watermark on or earlier are taken to be there already: to run this again, after a
    failure or with a longer table, changes nothing twice. A chunk and its watermark are written in one transaction.
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
    """Add events as they happen, whatever their times (or those that count at ``until_us``); returns how many were new.

    An event that comes late takes its place among those there are. With a ``position`` (the last offset of a log's
    partition, say), which grows from one call of a ``producer`` to the next, a batch that is delivered again changes
    nothing. A view that is fed in this way no longer needs its table: events up to the newest pushed count as there.
    """
    mark = _POSITION + state_prefix(view) + producer.encode()
    (stored,) = store.get_many([mark])
    if position is not None and stored is not None and position <= int(stored):
        return 0
    marks = {} if position is None else {mark: b"%d" % position}
    found = _in_order(view, build_history(view, events))
    if until_us is not None:
        found = found.filter(pl.col(KNOWN_AT) <= until_us)
    if found.is_empty():
        store.put_many(marks)
        return 0
    store.put_many(_writes(store, view, found) | marks)
    return found.height


def new_events(view: FeatureView, events: pl.DataFrame, since_us: int | None, until_us: int) -> pl.DataFrame:
    """The history of events that count after ``since_us``, at ``until_us`` at the latest, in no order."""
    return _between(build_history(view, events), since_us, until_us)


def materialize_history(store: OnlineStore, view: FeatureView, found: pl.DataFrame, until_us: int) -> int:
    """``materialize`` for a history."""
    return apply_events(store, view, _between(found, watermark(store, view), until_us))


def apply_events(store: OnlineStore, view: FeatureView, found: pl.DataFrame) -> int:
    """Add a history of events later than all that are there, chunk by chunk; returns how many."""
    for chunk in _chunks(_in_order(view, _thinned(view, found))):
        store.put_many(_writes(store, view, chunk))
    return found.height


def _between(found: pl.DataFrame, since_us: int | None, until_us: int) -> pl.DataFrame:
    wanted = pl.col(KNOWN_AT) <= until_us
    return found.filter(wanted if since_us is None else wanted & (pl.col(KNOWN_AT) > since_us))


def delete_view_state(store: OnlineStore, view: FeatureView) -> None:
    """Remove all state of a view."""
    prefix = state_prefix(view)
    positions = store.keys(_POSITION + prefix)
    store.delete([*store.keys(prefix), *positions, _WATERMARK + prefix])


def delete_entity_states(store: OnlineStore, view: FeatureView, entities: Sequence[tuple[str, ...]]) -> None:
    """Remove what is held of some entities, each given as the values of its keys."""
    store.delete(view_state_keys(view, list(zip(*entities, strict=True))))


def _thinned(view: FeatureView, found: pl.DataFrame) -> pl.DataFrame:
    """Less most events that leave nothing in a state: to find them costs a quarter of sorting them.

    Of an entity's events that are too old for any window those with the last time are kept, and for latest the newest.
    """
    entity, at = _codes(found, view.entity.keys), found.get_column(KNOWN_AT).to_numpy()
    old = at <= _last(entity, at)[entity] - (view.max_window_us + MAX_LATENESS_US)
    if not old.any():
        return found
    kept = ~old
    for times in (at, found.get_column(EVENT_TIME).to_numpy()) if view.latest else (at,):
        kept |= times == _last(entity, np.where(old, times, NEVER))[entity]
    return found.filter(kept)


def _codes(found: pl.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """A number for each entity, int64, from 0, some of them perhaps of none."""
    codes, size = np.zeros(found.height, np.int64), 1
    for key in keys:
        # Categories of its own: those that are shared are never forgotten.
        of_key = found.get_column(key).cast(pl.Categorical(pl.Categories.random())).to_physical().to_numpy()
        count = int(of_key.max(initial=0)) + 1
        codes, size = codes * count + of_key, size * count
        if size > _MAX_CODES:
            known, codes = np.unique(codes, return_inverse=True)
            size = known.size
    return codes


def _last(entity: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The last time of each entity."""
    last = np.full(int(entity.max(initial=-1)) + 1, NEVER)
    np.maximum.at(last, entity, times)
    return last


def _in_order(view: FeatureView, found: pl.DataFrame) -> pl.DataFrame:
    return found.sort([KNOWN_AT, TIE_BREAKER] if view.ties else [KNOWN_AT], maintain_order=True)


def _chunks(ordered: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Parts of about _CHUNK events. Events that count from the same time on are in one part: the watermark tells parts apart."""
    at, start = ordered.get_column(KNOWN_AT).to_numpy(), 0
    while start < len(at):
        last = at[min(start + _CHUNK, len(at)) - 1]
        end = int(np.searchsorted(at, last, side="right"))
        yield ordered.slice(start, end - start)
        start = end


def _writes(store: OnlineStore, view: FeatureView, chunk: pl.DataFrame) -> dict[bytes, bytes]:
    """The states that the chunk's events change, and the watermark. Not the time until which was asked for:

    what counts before it may still be on its way here.
    """
    layout = StateLayout(view)
    mark = _WATERMARK + state_prefix(view)
    entity, names = _entities(view, chunk)
    keys = view_state_keys(view, names)
    *states, stored = store.get_many([*keys, mark])
    needed = _needed(view, chunk, entity)
    extended = layout.extend(
        [state or layout.empty for state in states], layout.encode_events(chunk[needed], entity[needed])
    )
    newest = int(chunk.item(-1, KNOWN_AT))
    newest = newest if stored is None else max(newest, int(stored))
    return dict(zip(keys, extended, strict=True)) | {mark: b"%d" % newest}


def _needed(view: FeatureView, chunk: pl.DataFrame, entity: np.ndarray) -> np.ndarray:
    """Where the events stand that leave something in a state. Of an entity's events that are too old for any window

    these are the last one, which says until when events are gone, and the newest one, for latest.
    """
    at = chunk.get_column(KNOWN_AT).to_numpy()
    newest = np.empty(int(entity.max()) + 1, np.int64)
    # In the order of time: what is written last is the newest.
    newest[entity] = at
    old = at <= (newest - view.max_window_us - MAX_LATENESS_US)[entity]
    gone = np.flatnonzero(old)
    kept = ~old
    kept[_last_of_each(gone, entity)] = True
    if view.latest:
        by_event = np.argsort(chunk.get_column(EVENT_TIME).to_numpy()[gone], kind="stable")
        kept[_last_of_each(gone[by_event], entity)] = True
    return np.flatnonzero(kept)


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
