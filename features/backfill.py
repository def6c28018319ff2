"""Make a view's online state anew from its table: all of it, or that of some entities. Other views are not touched.

States are made aside and put in place of the old ones, a few entities at a time, each as a whole: a reader finds the
old state of an entity or its new one, never none. Run again, it gives the same states. Pure but for the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError
from features.definitions import FeatureView
from features.history import AT, history
from features.materialize import apply, watermark
from features.online import OnlineStore
from features.state_keys import keys_of, state_prefix

# Events whose states are made at once: what is held in memory beside the table.
_PART_EVENTS = 1_000_000


class Backfilled(NamedTuple):
    """Entities whose state was made anew, entities of which nothing is left, and the events read for them."""

    entities: int
    removed: int
    events: int


def backfill(
    store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int, since_us: int | None = None
) -> Backfilled:
    """Make the states of the view anew from ``events``, its whole table, as far as they count at ``until_us``.

    With ``since_us``, only of entities with an event that counts from then on: what was landed late finds its place.
    Raises DataError when the store holds events that the table does not reach yet, which would be lost.
    """
    found = history(view, events).filter(pl.col(AT) <= until_us)
    _require_reach(store, view, found)
    if since_us is not None:
        touched = found.filter(pl.col(AT) >= since_us).select(view.entity.keys).unique()
        found = found.join(touched, on=view.entity.keys, how="semi", maintain_order="left")
    written = _replace(store, view, found)
    stale = set(store.keys(state_prefix(view))) - written if since_us is None else set()
    store.delete(stale)
    return Backfilled(len(written), len(stale), found.height)


def refill(store: OnlineStore, view: FeatureView, events: pl.DataFrame, entities: pl.DataFrame) -> Backfilled:
    """Make the states of some entities anew from what is left of them in ``events``; ``entities`` has the keys as columns.

    Only as far as the view was materialised already; a view that never was stays empty.
    """
    until = watermark(store, view)
    if until is None or entities.is_empty():
        return Backfilled(0, 0, 0)
    keys = list(view.entity.keys)
    wanted = entities.select(pl.col(keys).cast(pl.String)).drop_nulls().unique()
    found = history(view, events).filter(pl.col(AT) <= until).join(wanted, on=keys, how="semi", maintain_order="left")
    written = _replace(store, view, found)
    empty = keys_of(view, list(wanted.join(found.select(keys), on=keys, how="anti").to_dict(as_series=False).values()))
    stale = [key for key, state in zip(empty, store.get_many(empty), strict=True) if state is not None]
    store.delete(stale)
    return Backfilled(len(written), len(stale), found.height)


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


def _replace(store: OnlineStore, view: FeatureView, found: pl.DataFrame) -> set[bytes]:
    """Put the states of all entities of ``found`` into place, and then the watermark; returns the states' keys."""
    prefix, written = state_prefix(view), set[bytes]()
    reached, mark = watermark(store, view), dict[bytes, bytes]()
    for part in _parts(view, found):
        aside = _Aside()
        apply(aside, view, part)
        states = {key: aside.values[key] for key in aside.keys(prefix)}
        store.put_many(states)
        written |= set(states)
        newest = watermark(aside, view)
        if newest is not None and (reached is None or newest > reached):
            reached, mark = newest, {key: aside.values[key] for key in aside.values if key not in states}
    # Last, so that a backfill that was cut off does not pass for one that is done.
    store.put_many(mark)
    return written


def _parts(view: FeatureView, found: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """All events of some entities at a time, in the order of the table."""
    number = max(1, -(-found.height // _PART_EVENTS))
    if number == 1:
        yield from [found] if found.height else []
        return
    which = found.select(pl.struct(view.entity.keys).hash(seed=0) % number).to_series()
    for part in range(number):
        yield found.filter(which == part)


def _require_reach(store: OnlineStore, view: FeatureView, found: pl.DataFrame) -> None:
    there, newest = watermark(store, view), found.get_column(AT).max()
    if there is not None and (not isinstance(newest, int) or newest < there):
        raise DataError(
            f"feature view {view.name!r} holds events online that are newer than its table",
            "land the source first, or wait: events that were pushed and not landed yet would be lost",
        )
