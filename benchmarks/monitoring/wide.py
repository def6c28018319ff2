"""A thousand columns against a reference: memory and time per row, in its own process.

The goal is 10 million rows. rayloop's memory does not depend on the number of rows and its time is proportional to it,
so a part of them is measured, in batches. Evidently loads all rows at once, some 80 GB, so it gets as many as take it
minutes; both the cost per row of a whole report and the marginal cost of a row are compared.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.monitoring.programs import ProgramFailed, run_peer
from benchmarks.monitoring.streams import NUMBERS, STRINGS, columns, wide
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile
from monitoring.detection.detector import evaluate_run
from monitoring.drift_policy import DAY_S, DriftPolicy
from monitoring.statistics.drift_reference import DriftReference

TIMES = 20
"""Fifty columns each."""
COLUMNS = columns(TIMES * NUMBERS, TIMES * STRINGS)
BATCH = 10_000
PEER = "evidently"
PEER_ROWS = (2_000, 10_000)
REFERENCE_ROWS = 10_000
WHOLE = 10**7
WORK = "1,000 columns against a reference"


def rows(count: int, progress: Callable[[str], None]) -> Iterator[Row]:
    """``count`` rows are profiled; of 10 million."""
    progress(f"rayloop: {count:,} rows of {len(COLUMNS):,} columns")
    ours = _alone(count)
    part = f"{count:,} of {WHOLE:,} rows, batches of {BATCH:,}; the reference has {REFERENCE_ROWS:,} rows"
    limit = Target(of="value", sign="<", limit=2.0)
    yield row(f"{WORK}: peak memory", "GiB", ours["gib"], target=limit, note=part)
    note, whole, marginal = "", None, None
    progress(f"{PEER}: {PEER_ROWS} rows")
    try:
        few, many = _theirs(progress)
        whole = many / PEER_ROWS[1]
        marginal = (many - few) / (PEER_ROWS[1] - PEER_ROWS[0])
    except (ProgramFailed, InstallFailed) as error:
        note = f"{PEER} could not be run: {error}"
    ratio = Target(of="ratio", sign="≤", limit=1 / 50)
    test_all = "the default test; with test='all' judging takes "
    timing_note = f"{part}; judging the window takes {ours['judge_s']:.2f} s, {test_all}{ours['all_s']:.1f} s"
    yield row(
        f"{WORK}: a whole report",
        "s a row",
        ours["row_s"],
        PEER,
        whole,
        ratio,
        note or f"{timing_note}; the peer has {PEER_ROWS[1]:,} rows",
    )
    yield row(
        f"{WORK}: one row more",
        "s a row",
        ours["row_s"],
        PEER,
        marginal,
        ratio,
        note or f"the peer's from {PEER_ROWS[0]:,} to {PEER_ROWS[1]:,} rows",
    )


def _theirs(progress: Callable[[str], None]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as room:
        frames = {"reference": REFERENCE_ROWS, "few": PEER_ROWS[0], "many": PEER_ROWS[1]}
        paths = {
            name: str(wide(i, n, TIMES).save(Path(room) / f"{name}.npz")) for i, (name, n) in enumerate(frames.items())
        }
        plan = {"reference": paths["reference"], "windows": [paths["few"], paths["many"]]}
        few, many = run_peer(PEER, "seconds", plan, progress)
    return few, many


def _alone(count: int) -> dict[str, Any]:
    """Measure in a new process, whose memory is its own."""
    command = [sys.executable, "-m", "benchmarks.monitoring.wide", str(count)]
    process = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    costs: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return costs


def measure(count: int) -> dict[str, float]:
    """Profile ``count`` rows a batch at a time on one core, then judge them: seconds per row, and peak memory."""
    pa.set_cpu_count(1)
    reference = Profile.empty(COLUMNS)
    reference.update(wide(0, REFERENCE_ROWS, TIMES).table())
    drift_reference = DriftReference(ReferenceProfile.build({0.0: reference}, DAY_S), 1, ())
    live, profile_s = Profile.empty(COLUMNS), 0.0
    for turn in range(max(1, count // BATCH)):
        # Four batches repeat: sampling new ones would take most of the time, and they would cost the same.
        batch = wide(1 + turn % 4, BATCH, TIMES).table()
        started = time.perf_counter()
        live.update(batch)
        profile_s += time.perf_counter() - started
    score_windows = {
        test: _judged(drift_reference, live, DriftPolicy(span=1, test=test)) for test in ("distance", "all")
    }
    total_s = profile_s + score_windows["distance"] * live.rows / WHOLE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {
        "row_s": total_s / live.rows,
        "gib": peak,
        "judge_s": score_windows["distance"],
        "all_s": score_windows["all"],
    }


def _judged(drift_reference: DriftReference, live: Profile, policy: DriftPolicy) -> float:
    started = time.perf_counter()
    evaluate_run(drift_reference, policy, "1", (DAY_S,), live)
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
