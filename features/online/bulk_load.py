"""Loads online state from a table of any size, with constant memory.

Events must be applied in the order in which they count, and the files of a table have no order. So they are read
twice: once to count the events of each time interval, and once to write each event into the file of its time range. A
range fits into memory; ranges are sorted and applied one after another, each in its own transaction with its
watermark. An interrupted load continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.definitions import FeatureView
from features.events.event_history import KNOWN_AT
from features.online.corrections import rebuild_corrected, record_corrections
from features.online.materialize import apply_events, new_events, watermark
from features.online.spill import SpillFiles
from features.online.store import OnlineStore
from features.sources.stored_rows import stored_parts

# Events that are kept in memory at a time.
MAX_EVENTS = 1_000_000
_INTERVAL_US = 60_000_000
# Intervals are merged in pairs when there are more.
MAX_INTERVALS = 1 << 20

Batches = Callable[[], Iterator[pa.Table]]


def load_snapshot(store: OnlineStore, view: FeatureView, tables: Tables, snapshot: Snapshot, until_us: int) -> int:
    """Bring a view's online state up to date with a snapshot of its source, as ``materialize.materialize`` does.

    Entities whose rows were corrected since the last load are rebuilt from the table first.

    Args:
        store: The online store.
        view: The view.
        tables: The catalog.
        snapshot: Snapshot of the view's source.
        until_us: Add events that count at this time at the latest, microseconds since the epoch.

    Returns:
        The number of new events.
    """

    parts = stored_parts(tables, snapshot)

    def batches() -> Iterator[pa.Table]:
        for part in parts:
            yield from part.read(view.source_columns)

    rebuild_corrected(store, view, tables, snapshot, until_us)
    added = load_batches(store, view, batches, until_us)
    record_corrections(store, view, snapshot, until_us)
    return added


def load_batches(store: OnlineStore, view: FeatureView, batches: Batches, until_us: int) -> int:
    """``load_snapshot`` for rows in batches that can be read several times."""
    since = watermark(store, view)
    parts: list[pl.DataFrame] = []
    for history in _histories(view, batches, since, until_us):
        parts.append(history)
        if sum(part.height for part in parts) > MAX_EVENTS:
            del parts
            return _load_ranges(store, view, lambda: _histories(view, batches, since, until_us))
    return apply_events(store, view, pl.concat(parts)) if parts else 0


def _histories(view: FeatureView, batches: Batches, since: int | None, until_us: int) -> Iterator[pl.DataFrame]:
    for batch in batches():
        history = new_events(view, pl.DataFrame(batch), since, until_us)
        if history.height:
            yield history


def _load_ranges(store: OnlineStore, view: FeatureView, histories: Callable[[], Iterator[pl.DataFrame]]) -> int:
    with TemporaryDirectory(prefix="rayloop-") as folder:
        files = _spill(histories(), _range_ends(histories()), Path(folder))
        return sum(apply_events(store, view, pl.read_ipc_stream(path)) for path in files.paths)


def _range_ends(histories: Iterator[pl.DataFrame]) -> np.ndarray:
    """Last microsecond of each range of about _IN_MEMORY events."""
    counts = Counter[int]()
    interval = _INTERVAL_US
    for history in histories:
        starts, sizes = np.unique(history.get_column(KNOWN_AT).to_numpy() // interval, return_counts=True)
        counts.update(dict(zip(starts.tolist(), sizes.tolist(), strict=True)))
        while len(counts) > MAX_INTERVALS:
            counts, interval = _halve(counts), interval * 2
    starts = np.array(sorted(counts), np.int64)
    ranges = np.cumsum([counts[start] for start in starts.tolist()]) // MAX_EVENTS
    last = np.flatnonzero(np.diff(ranges, append=ranges[-1] + 1))
    return np.asarray((starts[last] + 1) * interval - 1)


def _halve(counts: Counter[int]) -> Counter[int]:
    halved = Counter[int]()
    for start, size in counts.items():
        halved[start // 2] += size
    return halved


def _spill(histories: Iterator[pl.DataFrame], ends: np.ndarray, folder: Path) -> SpillFiles:
    """A file for each range, with its events in the order of the table."""
    with SpillFiles(folder) as files:
        for history in histories:
            numbers = pl.Series("range", np.searchsorted(ends, history.get_column(KNOWN_AT).to_numpy()))
            for (number,), part in history.group_by(numbers, maintain_order=True):
                files.add(int(str(number)), part)
    return files
