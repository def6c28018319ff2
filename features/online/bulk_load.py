"""From a landed table of any size to online state, in memory that does not grow with the table.

Events must be taken in the order in which they count, and a table's files are in no order. So they are read twice: once
to count how many events there are in each stretch of time, and once to put each into the file of its range of time. A range
fits into memory; range after range is sorted and written. Each is a transaction of its own with its watermark: what was
interrupted goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.definitions import FeatureView
from features.events.event_history import KNOWN_AT
from features.online.materialize import apply_events, new_events, watermark
from features.online.store import OnlineStore

# Events in memory at once.
_IN_MEMORY = 1_000_000
_STRETCH_US = 60_000_000
_MAX_STRETCHES = 1 << 20

Batches = Callable[[], Iterator[pa.Table]]


def load_snapshot(store: OnlineStore, view: FeatureView, tables: Tables, snapshot: Snapshot, until_us: int) -> int:
    """materialize.materialize for a snapshot of the view's source; returns how many events were new."""

    def batches() -> Iterator[pa.Table]:
        for part in tables.parts(snapshot)[1]:
            yield from part.read(view.source_columns)

    return load_batches(store, view, batches, until_us)


def load_batches(store: OnlineStore, view: FeatureView, batches: Batches, until_us: int) -> int:
    """The same for rows that can be read twice, batch by batch."""
    since = watermark(store, view)
    histories = _histories(view, batches, since, until_us)
    kept: list[pl.DataFrame] = []
    for found in histories:
        kept.append(found)
        if sum(part.height for part in kept) > _IN_MEMORY:
            del kept
            return _in_ranges(store, view, lambda: _histories(view, batches, since, until_us))
    return apply_events(store, view, pl.concat(kept)) if kept else 0


def _histories(view: FeatureView, batches: Batches, since: int | None, until_us: int) -> Iterator[pl.DataFrame]:
    for batch in batches():
        found = new_events(view, pl.DataFrame(batch), since, until_us)
        if found.height:
            yield found


def _in_ranges(store: OnlineStore, view: FeatureView, histories: Callable[[], Iterator[pl.DataFrame]]) -> int:
    ends = _ends(histories())
    with TemporaryDirectory(prefix="rayloop-") as folder:
        files = _dealt(histories(), ends, Path(folder))
        return sum(apply_events(store, view, pl.read_ipc_stream(file)) for file in files)


def _ends(histories: Iterator[pl.DataFrame]) -> np.ndarray:
    """Last microsecond of each range of about _IN_MEMORY events."""
    counts: dict[int, int] = {}
    stretch = _STRETCH_US
    for found in histories:
        starts, sizes = np.unique(found.get_column(KNOWN_AT).to_numpy() // stretch, return_counts=True)
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            counts[start] = counts.get(start, 0) + size
        while len(counts) > _MAX_STRETCHES:
            counts, stretch = _coarser(counts), stretch * 2
    starts = np.array(sorted(counts), np.int64)
    ranges = np.cumsum([counts[start] for start in starts.tolist()]) // _IN_MEMORY
    last = np.flatnonzero(np.diff(ranges, append=ranges[-1] + 1))
    ends: np.ndarray = (starts[last] + 1) * stretch - 1
    return ends


def _coarser(counts: dict[int, int]) -> dict[int, int]:
    halved: dict[int, int] = {}
    for start, size in counts.items():
        halved[start // 2] = halved.get(start // 2, 0) + size
    return halved


def _dealt(histories: Iterator[pl.DataFrame], ends: np.ndarray, folder: Path) -> Sequence[Path]:
    """A file for each range, with its events in the order of the table."""
    files = [folder / f"{i}.arrows" for i in range(len(ends))]
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    for found in histories:
        place = pl.Series("range", np.searchsorted(ends, found.get_column(KNOWN_AT).to_numpy()))
        for (i,), part in found.group_by(place, maintain_order=True):
            rows = part.to_arrow(compat_level=pl.CompatLevel.oldest())
            number = int(str(i))
            if number not in writers:
                writers[number] = pa.ipc.new_stream(files[number], rows.schema)
            writers[number].write_table(rows)
    for writer in writers.values():
        writer.close()
    return files
