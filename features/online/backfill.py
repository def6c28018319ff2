"""Rebuild a view's online state from its table, for all or some of its entities. Other views do not change.

New states are built in memory and replace the old ones, a few entities at a time: a reader always finds either the old
or the new state of an entity. A second run gives the same states.

All events of an entity are needed together, but they may be anywhere in the table. A table that does not fit in memory
is read once and partitioned into files by entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError
from features.definitions import FeatureView
from features.events.entity_partition import assign_buckets, split_rows
from features.events.event_history import FOREVER, KNOWN_AT, seen_at
from features.online.keys import state_keys, state_prefix
from features.online.materialize import (
    apply_events,
    history_until,
    new_events,
    table_position_key,
    watermark,
    watermark_key,
)
from features.online.spill import SpillFiles
from features.online.state_codec import NEVER, StateLayout
from features.online.store import Change, OnlineStore

# Events that are kept in memory at a time.
MAX_EVENTS = 1_000_000


class BackfillResult(NamedTuple):
    """What a backfill did."""

    entities: int
    """Entities whose state was rebuilt."""
    removed_entities: int
    """Entities without events, whose state was deleted."""
    events: int
    """Events that were read for them."""


def backfill(
    store: OnlineStore,
    view: FeatureView,
    batches: Iterable[pl.DataFrame],
    rows: int,
    until_us: int,
    since_us: int | None = None,
) -> BackfillResult:
    """Rebuild the states of a view from its whole table.

    Args:
        store: The online store.
        view: The view.
        batches: Rows of the view's source, in order.
        rows: Number of rows in all batches.
        until_us: Leave out events that count later, microseconds since the epoch.
        since_us: Rebuild only entities with an event that counts at or after this time, which adds events that came
            late.

    Raises:
        DataError: The store has newer events than the table, which would be lost; or the view was materialized
            meanwhile.
    """
    write = _Writer(store, view)
    histories = (new_events(view, batch, None, until_us) for batch in batches)
    with TemporaryDirectory(prefix="rayloop-") as folder:
        files, newest = _spill(view, histories, max(1, -(-rows // MAX_EVENTS)), Path(folder))
        _require_reach(store, view, newest)
        parts = (_select_changed(view, pl.read_ipc_stream(file), since_us) for file in files)
        written, events = _replace(store, view, parts, write)
    stale = set(store.keys(state_prefix(view))) - written if since_us is None else set()
    store.delete(stale)
    return BackfillResult(len(written), len(stale), events)


def rebuild_entities(
    store: OnlineStore,
    view: FeatureView,
    batches: Iterable[pl.DataFrame],
    entities: pl.DataFrame,
    known_by_us: int = FOREVER - 1,
    keep_pushed: bool = False,
) -> BackfillResult:
    """Rebuild the states of some entities from their remaining rows in the table.

    States reach as far as the view is materialized; a view without state stays empty.

    Args:
        store: The online store.
        view: The view.
        batches: Rows of the view's source, in order.
        entities: Key columns of the entities.
        known_by_us: Of rows with versions, use those known at this time, microseconds since the epoch; default: the
            newest.
        keep_pushed: Keep events that are newer than the table: they were pushed and not ingested yet.

    Raises:
        DataError: The view was materialized meanwhile.
    """
    write, until = _Writer(store, view), watermark(store, view)
    if until is None or entities.is_empty():
        return BackfillResult(0, 0, 0)
    keys = list(view.entity.keys)
    selected = entities.select(pl.col(keys).cast(pl.String)).drop_nulls().unique()
    histories = (history_until(view, batch, until) for batch in batches)
    parts, newest = [], NEVER
    for history in histories:
        latest = history.get_column(KNOWN_AT).max()
        newest = max(newest, latest) if isinstance(latest, int) else newest
        parts.append(seen_at(history.join(selected, on=keys, how="semi", maintain_order="left"), known_by_us))
    remaining = pl.concat(parts) if parts else selected.clear()
    kept_after = newest if keep_pushed and newest < until else None
    written, _ = _replace(store, view, [remaining] if remaining.height else [], write, kept_after)
    without_events = selected.join(remaining.select(keys), on=keys, how="anti")
    stale = _drop_stale(store, view, without_events, write, kept_after)
    return BackfillResult(len(written), stale, remaining.height)


def _drop_stale(
    store: OnlineStore, view: FeatureView, entities: pl.DataFrame, write: _Writer, kept_after: int | None
) -> int:
    """Delete the states of entities without events in the table, but for those that were pushed; returns the number."""
    keys = state_keys(state_prefix(view), list(entities.to_dict(as_series=False).values()))
    stale = {key: state for key, state in zip(keys, store.get_many(keys), strict=True) if state is not None}
    layout = StateLayout(view)
    left = (
        layout.keep_later([layout.empty] * len(stale), list(stale.values()), kept_after)
        if kept_after is not None and stale
        else []
    )
    pushed = {key: state for key, state in zip(stale, left, strict=False) if state != layout.empty}
    write(pushed)
    store.delete(set(stale) - set(pushed))
    return len(stale) - len(pushed)


class _StagedStates:
    """States in memory, which are built before they replace others."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.values |= values

    def update(self, name: bytes, keys: Sequence[bytes], change: Change) -> None:
        self.put_many(change(self.get_many(keys)))


def _replace(
    store: OnlineStore,
    view: FeatureView,
    parts: Iterable[pl.DataFrame],
    write: _Writer,
    kept_after: int | None = None,
) -> tuple[set[bytes], int]:
    """Replace the states of entities, and then the watermark; returns the keys of the states, and the number of events.

    Each of ``parts`` is a history with all events of some entities; old states keep their events after ``kept_after``.
    """
    prefix, written, events = state_prefix(view), set[bytes](), 0
    newest_us, mark = watermark(store, view), dict[bytes, bytes]()
    for part in parts:
        staged = _StagedStates()
        events += apply_events(staged, view, part)
        states = {key: state for key, state in staged.values.items() if key.startswith(prefix)}
        if kept_after is not None:
            old = store.get_many(list(states))
            states = dict(
                zip(states, StateLayout(view).keep_later(list(states.values()), old, kept_after), strict=True)
            )
        write(states)
        written |= set(states)
        newest = watermark(staged, view)
        if newest is not None and (newest_us is None or newest > newest_us):
            newest_us, mark = newest, {key: value for key, value in staged.values.items() if key not in states}
    # Last, so that an interrupted backfill is not mistaken for a complete one.
    write(mark)
    return written, events


class _Writer:
    """Writes values, unless the view's table was applied since the writer was created.

    Events that were applied meanwhile would be lost or count twice.
    """

    def __init__(self, store: OnlineStore, view: FeatureView) -> None:
        self._store, self._view = store, view
        self._watermark, self._position = watermark_key(view), table_position_key(view)
        (self._expected,) = store.get_many([self._position])

    def __call__(self, values: Mapping[bytes, bytes]) -> None:
        def change(stored: list[bytes | None]) -> Mapping[bytes, bytes]:
            if stored[0] != self._expected:
                raise DataError("data.online_state_changed", view=self._view.name)
            # A push may have moved the watermark further.
            newest = max(values.get(self._watermark, b""), stored[1] or b"", key=lambda mark: int(mark or NEVER))
            return {**values, self._watermark: newest} if self._watermark in values else values

        self._store.update(self._watermark, [self._position, self._watermark], change)


def _spill(
    view: FeatureView, histories: Iterator[pl.DataFrame], count: int, folder: Path
) -> tuple[list[Path], int | None]:
    """Files with all events of some entities each, in the order of the table; and the newest time of all events."""
    newest: int | None = None
    with SpillFiles(folder) as files:
        for history in histories:
            latest = history.get_column(KNOWN_AT).max()
            if isinstance(latest, int):
                newest = latest if newest is None else max(newest, latest)
            buckets = assign_buckets(history, view.entity.keys, count)
            for number, piece in enumerate(split_rows(history, buckets, count)):
                files.add(number, piece)
    return files.paths, newest


def _select_changed(view: FeatureView, part: pl.DataFrame, since_us: int | None) -> pl.DataFrame:
    """The events of entities that have one that counts from ``since_us`` on."""
    if since_us is None:
        return part
    changed = part.filter(pl.col(KNOWN_AT) >= since_us).select(view.entity.keys).unique()
    return part.join(changed, on=view.entity.keys, how="semi", maintain_order="left")


def _require_reach(store: OnlineStore, view: FeatureView, newest: int | None) -> None:
    mark = watermark(store, view)
    if mark is not None and (newest is None or newest < mark):
        raise DataError("data.online_ahead_of_table", view=view.name)
