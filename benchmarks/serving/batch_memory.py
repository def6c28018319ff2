"""The memory of batch prediction as its table grows.

The first prediction makes the processes take what they need, so that a larger table is compared twice: with the
first one, and with one that is large already. All run on one cluster, the small before the large, so that the
larger have what the smaller left behind in their figure.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.serving import batch_cases
from benchmarks.serving.batch_cases import LIGHT
from cluster import session
from cluster.settings import Settings

ROWS = 1 << 20
GROWTH = (1, 16, 64)
FLAT_TARGET = 1.2
_SAMPLE_S = 0.1
_MIB = 1 << 20


class Peak(NamedTuple):
    """The largest sum of what Ray's workers hold themselves and the object store holds, MiB, and how many workers there were then."""

    mib: float
    workers: int


def rows(workspace: Any, folder: Path) -> list[dict[str, Any]]:
    """A table 16 times as large as the first, and one 64 times as large against the one before."""
    version = batch_cases.bundle(LIGHT, folder)
    file = batch_cases.parquet(LIGHT, ROWS, folder / "table.parquet")
    peaks = [_peak_of(workspace, version, file, times, folder) for times in GROWTH]
    shown = ", ".join(
        f"{times}x {peak.mib:,.0f} MiB in {peak.workers} workers" for times, peak in zip(GROWTH, peaks, strict=True)
    )
    note = f"peak of Ray's workers and the object store, 1x = {ROWS:,} rows of {LIGHT.name}, one after another on one cluster: {shown}"
    first, large, largest = (peak.mib for peak in peaks)
    return [
        _row("16 times as large", large, "the first prediction", first, note),
        _row("64 times as large", largest, "16 times, after warm-up", large, note),
    ]


def _row(size: str, ours: float, peer: str, theirs: float, note: str) -> dict[str, Any]:
    ratio = ours / theirs
    return {
        "work": f"memory of batch prediction, a table {size}", "unit": "MiB", "rayloop": round(ours, 1), "peer": peer,
        "peer_value": round(theirs, 1), "ratio": round(ratio, 3), "target": f"<= {FLAT_TARGET}",
        "met": ratio <= FLAT_TARGET, "note": note,
    }  # fmt: skip


def _peak_of(workspace: Any, version: Any, file: str, times: int, folder: Path) -> Peak:
    from pipelines import batch

    source = batch_cases.repeated(file, times, folder / f"in{times}")
    out = str(folder / f"out{times}")
    return peak(workspace.settings, lambda: batch.predict(workspace, version, source, out, ("n00",)))


def peak(settings: Settings, work: Callable[[], object]) -> Peak:
    """The peak while ``work`` runs."""
    found, over = Peak(0.0, 0), threading.Event()

    def watch() -> None:
        nonlocal found
        while not over.wait(_SAMPLE_S):
            held = _held(settings)
            found = max(found, Peak((sum(held) + _store_bytes()) / _MIB, len(held)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return found


def _held(settings: Settings) -> list[int]:
    """Bytes that each worker holds itself; pages that it shares with the object store are counted there."""
    held = []
    for process in session.processes(settings):
        try:
            if process.name().startswith("ray::"):
                memory = process.memory_info()
                held.append(memory.rss - memory.shared)
        except psutil.NoSuchProcess:
            continue
    return held


def _store_bytes() -> int:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    return int(reply.store_stats.object_store_bytes_used)
