"""Partitions a view's events, and the rows to be joined with them, so that each row meets its events. Pure.

First by entity: the hash of the keys names one of ``buckets``. A bucket with too many events, such as that of a key
that has most of them, is partitioned again by time: each partition answers the rows of a time range, and gets the
events from the longest look-back before the range to its end. ``context_rows`` adds the one event of each entity that
can still be its newest although it is older. So the size of a partition is bounded by the events of a range and one
look-back, regardless of the keys. Rows are matched with the partitions that answer them by computing both again, not by
sending row numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from features.definitions import FeatureView
from features.events.event_history import (
    EVENT_TIME,
    FOREVER,
    KNOWN_AT,
    SEEN_FROM,
    SEEN_UNTIL,
    TIE_BREAKER,
    epoch_us,
    key_as_text,
)
from features.types import AS_OF

PARTITION_EVENTS = 1 << 21
"""Events of a comfortable partition: a few hundred MiB while it is joined."""
SAMPLE_SIZE = 512
"""Known-at times that are sampled from a piece of a bucket to estimate how its events are spread over time."""

_FIRST, _LAST = -(2**63), 2**63 - 1


class Partition(NamedTuple):
    """Rows of a bucket whose time is in (after, until], microseconds; by default all of them."""

    bucket: int
    after: int = _FIRST
    until: int = _LAST

    @property
    def is_whole_bucket(self) -> bool:
        """Whether the partition has no time bounds."""
        return (self.after, self.until) == (_FIRST, _LAST)


class Partitioning(NamedTuple):
    """How one view is partitioned. ``partitions`` are in the order of buckets, then of time."""

    keys: tuple[str, ...]
    buckets: int
    partitions: tuple[Partition, ...]


def bucket_count(events: int, views: int, cpus: int) -> int:
    """Return the number of buckets of a view.

    Few events get at most enough buckets to keep the cores busy; many events get enough to keep each bucket small.
    """
    concurrent = -(-cpus // views) if events > PARTITION_EVENTS // 8 else 1
    return max(1, concurrent, -(-events // PARTITION_EVENTS))


def assign_buckets(rows: pl.DataFrame, keys: Sequence[str], count: int) -> np.ndarray:
    """Return the bucket of each row, int64 [rows]; equal keys get equal buckets, regardless of their type."""
    if count == 1:
        return np.zeros(rows.height, np.int64)
    text = pl.struct(*(key_as_text(rows.schema, key, "rows to be joined") for key in keys))
    return rows.select((text.hash(seed=0) % count).cast(pl.Int64)).to_series().to_numpy()


def split_rows(rows: pl.DataFrame, numbers: np.ndarray, count: int) -> list[pl.DataFrame]:
    """Split rows by their ``numbers``, 0 to ``count`` - 1; each piece keeps the order of the rows."""
    if count == 1:
        return [rows]
    ordered = rows[np.argsort(numbers, kind="stable")]
    ends = np.cumsum(np.bincount(numbers, minlength=count))
    return [ordered[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def concat(pieces: Sequence[pl.DataFrame], numbers: np.ndarray) -> pl.DataFrame:
    """Undo ``split_rows``."""
    if len(pieces) == 1:
        return pieces[0]
    position = np.empty(numbers.size, np.int64)
    position[np.argsort(numbers, kind="stable")] = np.arange(numbers.size)
    return pl.concat(pieces)[position]


def plan_partitions(keys: tuple[str, ...], events: Sequence[int], samples: Mapping[int, np.ndarray]) -> Partitioning:
    """Plan the partitions of a view.

    Args:
        keys: Key columns of the view's entity.
        events: Number of events of each bucket.
        samples: Evenly drawn known-at times by bucket, at least of the large ones.
    """
    planned = (part for bucket, n in enumerate(events) for part in _split_bucket(bucket, n, samples.get(bucket)))
    return Partitioning(keys, len(events), tuple(planned))


def _split_bucket(bucket: int, events: int, sample: np.ndarray | None) -> Iterator[Partition]:
    if not is_large(events) or sample is None:
        yield Partition(bucket)
        return
    count = -(-events // PARTITION_EVENTS)
    bounds = np.unique(np.quantile(sample, np.arange(1, count) / count, method="nearest")).tolist()
    for after, until in zip([_FIRST, *bounds], [*bounds, _LAST], strict=True):
        yield Partition(bucket, after, until)


def is_large(events: int) -> bool:
    """Whether a bucket of that many events is also partitioned by time."""
    return events > 2 * PARTITION_EVENTS


def sample_known_times(history: pl.DataFrame) -> np.ndarray:
    """Draw up to about ``SAMPLE_SIZE`` known-at times evenly from a history, int64 microseconds."""
    return history.get_column(KNOWN_AT).gather_every(max(1, history.height // SAMPLE_SIZE)).to_numpy()


def assign_partitions(partitioning: Partitioning, rows: pl.DataFrame) -> np.ndarray:
    """Return the number of the partition that answers each row, int64 [rows]."""
    buckets = assign_buckets(rows, partitioning.keys, partitioning.buckets)
    if len(partitioning.partitions) == partitioning.buckets:
        return buckets
    times = _times(rows)
    numbers = np.empty(rows.height, np.int64)
    for number, partition in enumerate(partitioning.partitions):
        numbers[(buckets == partition.bucket) & _contains(partition, times)] = number
    return numbers


def select_rows(partition: Partition, rows: pl.DataFrame) -> pl.DataFrame:
    """Select from the rows of a bucket those that the partition answers."""
    return rows if partition.is_whole_bucket else rows.filter(_contains(partition, _times(rows)))


def select_events(view: FeatureView, partition: Partition, pieces: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """Select the events that a partition needs.

    Args:
        view: The view.
        partition: The partition.
        pieces: Histories that together are the partition's bucket, in the order of the source.
    """
    if partition.is_whole_bucket:
        return pl.concat(pieces)
    oldest = max(partition.after - _lookback(view), _FIRST)
    recent, older = [], None
    for piece in pieces:
        recent.append(piece.filter((pl.col(KNOWN_AT) > oldest) & (pl.col(KNOWN_AT) <= partition.until)))
        if view.latest and view.ttl_us is None:
            early = piece.filter(pl.col(KNOWN_AT) <= oldest)
            older = context_rows(view, early if older is None else pl.concat([older, early]), oldest)
    return pl.concat([*([] if older is None else [older]), *recent])


def context_rows(view: FeatureView, history: pl.DataFrame, oldest: int = _LAST) -> pl.DataFrame:
    """Return the newest event of each entity, by the order that the view defines.

    Args:
        view: The view.
        history: A history; of one with versions, also those stay that rows after ``oldest`` may see or not.
        oldest: Microseconds since the epoch.
    """
    if SEEN_FROM in history.columns:
        open_ended = (pl.col(SEEN_UNTIL) != FOREVER) | (pl.col(SEEN_FROM) > oldest)
        indexed = history.with_row_index("__place")
        newest = context_rows(view, indexed.filter(~open_ended).drop(SEEN_FROM, SEEN_UNTIL), oldest)
        return indexed.filter(open_ended | pl.col("__place").is_in(newest["__place"].implode())).drop("__place")
    order = history.sort(EVENT_TIME, KNOWN_AT, *([TIE_BREAKER] if view.ties else []), maintain_order=True)
    return order.unique(list(view.entity.keys), keep="last", maintain_order=True)


def _lookback(view: FeatureView) -> int:
    """How long before a row an event may have become known and still matter, except for a latest without ttl.

    An event is never known before it happens, so ttl bounds both. Strict views need one microsecond more.
    """
    return max(view.max_window_us, view.ttl_us or 0) + 1


def _times(rows: pl.DataFrame) -> np.ndarray:
    """Times of rows. A row without time may be answered anywhere, since its features are null."""
    return rows.select(epoch_us(rows.schema, AS_OF, "rows to be joined", up=False).fill_null(0)).to_series().to_numpy()


def _contains(partition: Partition, times: np.ndarray) -> np.ndarray:
    until = times <= partition.until
    return (times > partition.after) & until if partition.after > _FIRST else until
