"""From source events to online state: in known-at order, in chunks, each event once."""

from __future__ import annotations

import polars as pl

from features.definitions import FeatureView
from features.online import OnlineStore
from features.pit import INSTANT
from features.state import LATENESS_US, Layout, State

_WATERMARK = b"watermark"
_ROW = "__row"


def state_prefix(view: FeatureView) -> bytes:
    """Prefix of the view's keys in the store; it carries the definition's hash."""
    return view.content_hash[:16].encode() + b"/"


def state_key(prefix: bytes, values: tuple[str, ...]) -> bytes:
    """Key of one entity's state; lengths keep ("a", "bc") apart from ("ab", "c")."""
    return prefix + b"".join(b"%d:%s" % (len(raw), raw) for raw in (v.encode() for v in values))


def watermark(store: OnlineStore, view: FeatureView) -> int | None:
    """Known-at time (microseconds) of the newest event that the view's state holds."""
    (stored,) = store.get_many([_WATERMARK + b"/" + state_prefix(view)])
    return int(stored) if stored else None


def materialize(store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int) -> int:
    """Bring the view up to date with the events known until ``until_us``; returns how many were new.

    Events at or before the watermark are taken to be there already: to run this again, after a
    failure or with a longer table, changes nothing twice.
    """
    since = watermark(store, view)
    fresh = _known_between(view, events, since, until_us)
    if fresh.is_empty():
        return 0
    newest = int(fresh.get_column(view.known_at).dt.epoch("us")[-1])
    if since is None and not view.latest:
        # A first load needs no more history than a look-up can reach.
        oldest = newest - view.max_window_us - LATENESS_US
        fresh = fresh.filter(pl.col(view.known_at).dt.epoch("us") > oldest)
    writes = _merged(store, view, fresh)
    # Not ``until_us``: what became known before it may still be on its way here.
    writes[_WATERMARK + b"/" + state_prefix(view)] = b"%d" % newest
    store.put_many(writes)
    return fresh.height


def forget(store: OnlineStore, view: FeatureView) -> None:
    """Remove all state of a view."""
    prefix = state_prefix(view)
    store.delete([*store.keys(prefix), _WATERMARK + b"/" + prefix])


def _known_between(view: FeatureView, events: pl.DataFrame, since: int | None, until: int) -> pl.DataFrame:
    keys = [pl.col(key).cast(pl.String) for key in view.entity.keys]
    times = [pl.col(column).cast(INSTANT) for column in {view.known_at, view.event_time}]
    usable = events.select(view.source_columns).with_columns(*keys, *times)
    usable = usable.drop_nulls([*view.entity.keys, view.known_at, view.event_time])
    known = pl.col(view.known_at).dt.epoch("us")
    wanted = (known <= until) & (pl.col(view.event_time) <= pl.col(view.known_at))
    if since is not None:
        wanted &= known > since
    return usable.filter(wanted).sort(view.known_at, maintain_order=True)


def _merged(store: OnlineStore, view: FeatureView, fresh: pl.DataFrame) -> dict[bytes, bytes]:
    layout, prefix = Layout(view), state_prefix(view)
    groups = fresh.with_row_index(_ROW).group_by(view.entity.keys, maintain_order=True).agg(pl.col(_ROW))
    keys = [state_key(prefix, values) for values in groups.select(view.entity.keys).iter_rows()]
    # One conversion for all entities: most have an event or two.
    events = layout.events(fresh)
    writes = {}
    for key, old, rows in zip(keys, store.get_many(keys), groups.get_column(_ROW).to_list(), strict=True):
        state: State = layout.unpack(old) if old else layout.empty
        writes[key] = layout.pack(layout.extend(state, events.take(rows)))
    return writes
