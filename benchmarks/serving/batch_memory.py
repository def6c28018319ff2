"""The memory of batch prediction as its table grows.

The first prediction makes the processes take what they need, so that a larger table is compared twice: with the
first one, and with one that is large already. All run on one cluster, the small before the large, so that the
larger have what the smaller left behind in their figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.memory import peak_mib
from benchmarks.serving import batch_cases
from benchmarks.serving.batch_cases import LIGHT

ROWS = 1 << 20
GROWTH = (1, 16, 64)
FLAT_TARGET = 1.2


def rows(workspace: Any, folder: Path) -> list[dict[str, Any]]:
    """A table 16 times as large as the first, and one 64 times as large against the one before."""
    version = batch_cases.bundle(LIGHT, folder)
    file = batch_cases.parquet(LIGHT, ROWS, folder / "table.parquet")
    peaks = [_peak_of(workspace, version, file, times, folder) for times in GROWTH]
    text = ", ".join(f"{times}x {peak:,.0f} MiB" for times, peak in zip(GROWTH, peaks, strict=True))
    note = (
        f"peak of Ray's workers and the object store, 1x = {ROWS:,} rows of {LIGHT.name},"
        f" one after another on one cluster: {text}"
    )
    first, large, largest = peaks
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


def _peak_of(workspace: Any, version: Any, file: str, times: int, folder: Path) -> float:
    from rayloop.stages import batch_predict

    source = batch_cases.repeated(file, times, folder / f"in{times}")
    out = str(folder / f"out{times}")
    return peak_mib(workspace.settings, lambda: batch_predict.predict(workspace, version, source, out, ("n00",)))[1]
