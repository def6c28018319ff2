"""Make a view's online state anew from its table: all of it, or that of some entities. Other views are not touched.

States are made aside and put in place of the old ones, a few entities at a time, each as a whole: a reader finds the
old state of an entity or its new one, never none. Run again, it gives the same states.

All events of an entity are needed at once, and a table has them anywhere. A table that is larger than what is held in
memory is read once, and dealt out to files by entity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from cluster.errors import DataError
from features.definitions import FeatureView
from features.events.entity_partition import assign_buckets, split_rows
from features.events.event_history import KNOWN_AT, build_history
from features.online.keys import state_prefix, view_state_keys
from features.online.materialize import apply_events, watermark
from features.online.store import OnlineStore

# Events whose states are made at once: what is held in memory.
_PART_EVENTS = 1_000_000


class BackfillResult(NamedTuple):
    """Entities whose state was made anew, entities of which nothing is left, and the events read for them."""

    entities: int
    removed: int
    events: int


def backfill(
    store: OnlineStore,
    view: FeatureView,
    batches: Iterable[pl.DataFrame],
    rows: int,
    until_us: int,
    since_us: int | None = None,
) -> BackfillResult:
    """Make the states of the view anew from its whole table, as far as it counts at ``until_us``.

    ``batches`` are the table's ``rows`` in order. With ``since_us``, only states of entities with an event that counts from
    then on are made: what was landed late finds its place.
    Raises DataError when the store holds events that the table does not reach yet, which would be lost.
    """
    histories = (build_history(view, batch).filter(pl.col(KNOWN_AT) <= until_us) for batch in batches)
    with TemporaryDirectory(prefix="rayloop-") as folder:
        files, newest = _dealt(view, histories, max(1, -(-rows // _PART_EVENTS)), Path(folder))
        _require_reach(store, view, newest)
        parts = (_touched(view, pl.read_ipc_stream(file), since_us) for file in files)
        written, events = _replace(store, view, parts)
    stale = set(store.keys(state_prefix(view))) - written if since_us is None else set()
    store.delete(stale)
    return BackfillResult(len(written), len(stale), events)


def rebuild_entities(
    store: OnlineStore, view: FeatureView, batches: Iterable[pl.DataFrame], entities: pl.DataFrame
) -> BackfillResult:
    """Make the states of some entities anew from what is left of them in a table; ``entities`` has the keys as columns.

    Only as far as the view was materialised already; a view that never was stays empty.
    """
    until = watermark(store, view)
    if until is None or entities.is_empty():
        return BackfillResult(0, 0, 0)
    keys = list(view.entity.keys)
    wanted = entities.select(pl.col(keys).cast(pl.String)).drop_nulls().unique()
    histories = (build_history(view, batch).filter(pl.col(KNOWN_AT) <= until) for batch in batches)
    theirs = [found.join(wanted, on=keys, how="semi", maintain_order="left") for found in histories]
    found = pl.concat(theirs) if theirs else wanted.clear()
    written, _ = _replace(store, view, [found] if found.height else [])
    empty = view_state_keys(
        view, list(wanted.join(found.select(keys), on=keys, how="anti").to_dict(as_series=False).values())
    )
    stale = [key for key, state in zip(empty, store.get_many(empty), strict=True) if state is not None]
    store.delete(stale)
    return BackfillResult(len(written), len(stale), found.height)


class _Aside:
    """A store in memory, in which states are made before they are put into place."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.values.update(values)

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        return [key for key in self.values if key.startswith(prefix)]

    def delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.values.pop(key, None)


def _replace(store: OnlineStore, view: FeatureView, parts: Iterable[pl.DataFrame]) -> tuple[set[bytes], int]:
    """Put the states of all entities into place, and then the watermark; returns the states' keys, and how many events.

    Each of ``parts``, histories, has all events of some entities.
    """
    prefix, written, events = state_prefix(view), set[bytes](), 0
    reached, mark = watermark(store, view), dict[bytes, bytes]()
    for part in parts:
        aside = _Aside()
        events += apply_events(aside, view, part)
        states = {key: aside.values[key] for key in aside.keys(prefix)}
        store.put_many(states)
        written |= set(states)
        newest = watermark(aside, view)
        if newest is not None and (reached is None or newest > reached):
            reached, mark = newest, {key: aside.values[key] for key in aside.values if key not in states}
    # Last, so that a backfill that was cut off does not pass for one that is done.
    store.put_many(mark)
    return written, events


def _dealt(
    view: FeatureView, histories: Iterator[pl.DataFrame], number: int, folder: Path
) -> tuple[list[Path], int | None]:
    """A file for each part, with all events of some entities in the order of the table; and the newest time of all."""
    newest: int | None = None
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    for found in histories:
        latest = found.get_column(KNOWN_AT).max()
        if isinstance(latest, int):
            newest = latest if newest is None else max(newest, latest)
        places = assign_buckets(found, view.entity.keys, number)
        for place, piece in enumerate(split_rows(found, places, number)):
            rows = piece.to_arrow(compat_level=pl.CompatLevel.oldest())
            if place not in writers:
                writers[place] = pa.ipc.new_stream(folder / f"{place}.arrows", rows.schema)
            writers[place].write_table(rows)
    for writer in writers.values():
        writer.close()
    return [folder / f"{place}.arrows" for place in sorted(writers)], newest


def _touched(view: FeatureView, part: pl.DataFrame, since_us: int | None) -> pl.DataFrame:
    """The events of entities that have one that counts from ``since_us`` on."""
    if since_us is None:
        return part
    touched = part.filter(pl.col(KNOWN_AT) >= since_us).select(view.entity.keys).unique()
    return part.join(touched, on=view.entity.keys, how="semi", maintain_order="left")


def _require_reach(store: OnlineStore, view: FeatureView, newest: int | None) -> None:
    there = watermark(store, view)
    if there is not None and (newest is None or newest < there):
        raise DataError(
            f"feature view {view.name!r} holds events online that are newer than its table",
            "land the source first, or wait: events that were pushed and not landed yet would be lost",
        )
