"""Rows profiled per second on one core, 40 numbers and 10 strings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from benchmarks.monitoring.programs import ProgramFailed, run_peer
from benchmarks.monitoring.streams import COLUMNS, frame
from benchmarks.results import Row, Target, median_or_none, row
from benchmarks.serving.environments import InstallFailed
from features.profiles.profile import Profile

PEER = "whylogs"
WORK = "profiling, one core, 40 numbers and 10 strings"


def rows(count: int, repeats: int, progress: Callable[[str], None]) -> Iterator[Row]:
    """``count`` rows are profiled ``repeats`` times."""
    window = frame(1, count)
    progress(f"rayloop profiles {count:,} rows")
    ours = _rates(window.table(), repeats)
    note = f"{count:,} rows, median of {repeats}; from an Arrow table, the peer from a data frame"
    theirs: list[float] = []
    progress(f"{PEER} profiles {count:,} rows")
    with tempfile.TemporaryDirectory() as room:
        plan = {"frame": str(window.save(Path(room) / "frame.npz")), "repeats": repeats}
        try:
            theirs = run_peer(PEER, "profile", plan, progress)
        except (ProgramFailed, InstallFailed) as error:
            note = f"{PEER} could not be run: {error}"
    yield row(
        WORK,
        "rows/s",
        median_or_none(ours),
        PEER,
        median_or_none(theirs),
        Target(of="ratio", sign="≥", limit=10.0),
        note,
    )


def _rates(table: pa.Table, repeats: int) -> list[float]:
    # pyarrow's kernels would use every core.
    pa.set_cpu_count(1)
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        Profile.empty(COLUMNS).update(table)
        rates.append(table.num_rows / (time.perf_counter() - started))
    return rates
