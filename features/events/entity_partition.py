"""How the events of a view, and the rows that ask for it, are dealt out so that what belongs together meets. Pure.

By entity: the hash of the keys names one of ``buckets``. A bucket with too many events, such as that of one key that
has most of them, is dealt out once more, by time: each of its parts answers the rows of a stretch of time, and gets the
events from the longest look-back before the stretch to its end. ``carried`` adds the one event of each entity that can
still be its newest although it is older than that. So parts are bounded by the events of a stretch and one look-back,
whatever the keys; the rows and the parts that answer them are matched by computing both again, not by sending numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from features.definitions import FeatureView
from features.events.event_history import EVENT_TIME, KNOWN_AT, TIE_BREAKER, epoch_us, key_as_text
from features.types import AS_OF

PARTITION_EVENTS = 1 << 21
"""Events of a part that is comfortable: a few hundred MiB while it is joined."""
SAMPLE_SIZE = 512
"""Known-at times by which a piece of a bucket tells how its events lie in time."""

_FIRST, _LAST = -(2**63), 2**63 - 1


class Partition(NamedTuple):
    """Rows of a bucket whose time is in (after, upto], microseconds; without bounds all of them."""

    bucket: int
    after: int = _FIRST
    until: int = _LAST

    @property
    def is_whole_bucket(self) -> bool:
        return (self.after, self.until) == (_FIRST, _LAST)


class Partitioning(NamedTuple):
    """How one view is dealt out. ``parts`` are in the order of buckets, then of time."""

    keys: tuple[str, ...]
    buckets: int
    partitions: tuple[Partition, ...]


def bucket_count(events: int, views: int, cpus: int) -> int:
    """Buckets of a view: few events make no more than the cores need, many as many as keep each comfortable."""
    at_once = -(-cpus // views) if events > PARTITION_EVENTS // 8 else 1
    return max(1, at_once, -(-events // PARTITION_EVENTS))


def assign_buckets(rows: pl.DataFrame, keys: Sequence[str], count: int) -> np.ndarray:
    """Bucket of each row, int64; the same for equal keys, whatever type they are written in."""
    if count == 1:
        return np.zeros(rows.height, np.int64)
    text = pl.struct(*(key_as_text(rows.schema, key, "rows to be joined") for key in keys))
    return rows.select((text.hash(seed=0) % count).cast(pl.Int64)).to_series().to_numpy()


def split_rows(rows: pl.DataFrame, places: np.ndarray, count: int) -> list[pl.DataFrame]:
    """The rows of place 0, 1, ... ``count`` - 1, each in the order they have."""
    if count == 1:
        return [rows]
    ordered = rows[np.argsort(places, kind="stable")]
    ends = np.cumsum(np.bincount(places, minlength=count))
    return [ordered[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def concat(pieces: Sequence[pl.DataFrame], places: np.ndarray) -> pl.DataFrame:
    """The inverse of ``split``."""
    if len(pieces) == 1:
        return pieces[0]
    back = np.empty(places.size, np.int64)
    back[np.argsort(places, kind="stable")] = np.arange(places.size)
    return pl.concat(pieces)[back]


def plan_partitions(keys: tuple[str, ...], events: Sequence[int], samples: Mapping[int, np.ndarray]) -> Partitioning:
    """Parts for buckets of so many events; ``samples`` are known-at times of the large ones, evenly drawn."""
    return Partitioning(
        keys, len(events), tuple(part for b, n in enumerate(events) for part in _parts(b, n, samples.get(b)))
    )


def _parts(bucket: int, events: int, sample: np.ndarray | None) -> Iterator[Partition]:
    if not is_large(events) or sample is None:
        yield Partition(bucket)
        return
    count = -(-events // PARTITION_EVENTS)
    bounds = np.unique(np.quantile(sample, np.arange(1, count) / count, method="nearest")).tolist()
    for after, upto in zip([_FIRST, *bounds], [*bounds, _LAST], strict=True):
        yield Partition(bucket, after, upto)


def is_large(events: int) -> bool:
    """Whether a bucket is dealt out by time too."""
    return events > 2 * PARTITION_EVENTS


def sample_known_times(known: pl.DataFrame) -> np.ndarray:
    """Some known-at times of a history, evenly drawn."""
    return known.get_column(KNOWN_AT).gather_every(max(1, known.height // SAMPLE_SIZE)).to_numpy()


def assign_partitions(dealt: Partitioning, rows: pl.DataFrame) -> np.ndarray:
    """Which part answers each row, int64."""
    found = assign_buckets(rows, dealt.keys, dealt.buckets)
    if len(dealt.partitions) == dealt.buckets:
        return found
    times = _times(rows)
    answered = np.empty(rows.height, np.int64)
    for number, part in enumerate(dealt.partitions):
        answered[(found == part.bucket) & _within(part, times)] = number
    return answered


def select_rows(part: Partition, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of the part's bucket that the part answers."""
    return rows if part.is_whole_bucket else rows.filter(_within(part, _times(rows)))


def select_events(view: FeatureView, part: Partition, pieces: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """The history that the part needs, of the pieces of its bucket, which come in the order of the source."""
    if part.is_whole_bucket:
        return pl.concat(pieces)
    oldest = max(part.after - _lookback(view), _FIRST)
    recent, older = [], None
    for piece in pieces:
        recent.append(piece.filter((pl.col(KNOWN_AT) > oldest) & (pl.col(KNOWN_AT) <= part.until)))
        if view.latest and view.ttl_us is None:
            early = piece.filter(pl.col(KNOWN_AT) <= oldest)
            older = context_rows(view, early if older is None else pl.concat([older, early]))
    return pl.concat([*([] if older is None else [older]), *recent])


def context_rows(view: FeatureView, known: pl.DataFrame) -> pl.DataFrame:
    """The newest event of each entity, by the view's rule."""
    order = known.sort(EVENT_TIME, KNOWN_AT, *([TIE_BREAKER] if view.ties else []), maintain_order=True)
    return order.unique(list(view.entity.keys), keep="last", maintain_order=True)


def _lookback(view: FeatureView) -> int:
    """How far behind a row an event may have become known and still matter, but for a latest without ttl.

    An event is known no sooner than it happens, so that ttl bounds both. One more for views that are strict.
    """
    return max(view.max_window_us, view.ttl_us or 0) + 1


def _times(rows: pl.DataFrame) -> np.ndarray:
    """Times of rows; one without time may be answered anywhere: its features are null."""
    return rows.select(epoch_us(rows.schema, AS_OF, "rows to be joined", up=False).fill_null(0)).to_series().to_numpy()


def _within(part: Partition, times: np.ndarray) -> np.ndarray:
    return (times > part.after) & (times <= part.until) if part.after > _FIRST else times <= part.until
