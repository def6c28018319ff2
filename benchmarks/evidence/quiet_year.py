"""False alarms of many models over a quiet year at a budget of one a month, and the delay until real shifts alarm.

Days of a model: 500 rows, three numbers, a score, three segments, labels on the same day. Days differ by chance, and in
some works neighboring days resemble each other. Compared with the commit before the budget covered every kind.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.evidence.monitored_days import classifier_aucs
from benchmarks.results import Row, Target, row

BEFORE = "6b916b1"
"""The commit before the budget covered every kind of alarm."""
MODELS, FEW_MODELS = 100, 4
FEWER_MODELS = 10
"""Models of the works that show what the guarantee rests on."""
BEFORE_MODELS = 20
"""Models of the commit before: a rate of alarms that is several times the budget needs fewer."""
DAYS, DELAY_DAYS, QUIET_DAYS = 365, 60, 10
DELAY_MODELS = 10
MONTH_DAYS = 30.0
CHANGES: dict[str, dict[str, float]] = {
    "a number moves by 0.3 sd": {"inputs": 0.3},
    "a number moves by 0.6 sd": {"inputs": 0.6},
    "a number moves by 1 sd in a third of the rows, one segment": {"segment": 1.0},
    "labels given inputs: log odds + 0.5": {"concept": 0.5},
    "labels given inputs: log odds + 1": {"concept": 1.0},
}
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("monitoring", "cluster", "features")

Starts = list[dict[str, list[int]]]
"""For each model, days on which an alarm of each kind starts."""


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """The rows of the section.

    Args:
        small: Few models.
        progress: Shows a line.
    """
    with tempfile.TemporaryDirectory() as room:
        progress("AUCs of the domain classifier")
        runner = _Runner(_earlier_code(Path(room)), classifier_aucs(10 if small else 100).tolist(), progress)
        for models, alike, floors in ((MODELS, 0.0, True), (FEWER_MODELS, 0.0, False), (FEWER_MODELS, 0.5, True)):
            yield _false_alarms(FEW_MODELS if small else models, alike, floors, runner)
        for name, change in CHANGES.items():
            yield _delays(name, change, FEW_MODELS if small else DELAY_MODELS, runner)


def budget_interval(models: int, days: int, per_month: float = 1.0) -> tuple[float, float, float]:
    """Expected alarms, and the central 95 % of a Poisson count with this mean."""
    mean = models * days / MONTH_DAYS * per_month
    return mean, float(stats.poisson.ppf(0.025, mean)), float(stats.poisson.ppf(0.975, mean))


def _false_alarms(models: int, alike: float, floors: bool, runner: _Runner) -> Row:
    plan = {"floors": floors, "alike": alike, "days": DAYS, "since": 10**6}
    ours = runner.run({**plan, "models": list(range(models))})
    _, _, high = budget_interval(models, DAYS)
    months = DAYS / MONTH_DAYS
    days = "days that resemble their neighbors (correlation 0.5)" if alike else "independent days"
    smallest = "" if floors else ", without smallest effects"
    work = f"false alarms of {models} models over a quiet year, budget one a month; {days}{smallest}"
    note = f"{_count(ours)} alarms: {_by_kind(ours)}; the limit is the upper end of the budget's 95 % interval"
    rate = None
    if alike == 0.0 and floors:
        before = min(models, BEFORE_MODELS)
        theirs = runner.run_before({**plan, "models": list(range(before))})
        if theirs is not None:
            rate = _count(theirs) / before / months
            note += f"; before, {before} models: {_count(theirs)}: {_by_kind(theirs)}"
    target = Target(of="value", sign="≤", limit=round(high / models / months, 3))
    unit = "alarms per model in 30 days"
    return row(work, unit, _count(ours) / models / months, f"commit {BEFORE}" if rate else "", rate, target, note)


def _delays(name: str, change: Mapping[str, float], models: int, runner: _Runner) -> Row:
    days = QUIET_DAYS + DELAY_DAYS
    plan = {"change": change, "models": list(range(models)), "days": days, "since": QUIET_DAYS, "alike": 0.0}
    ours, theirs = runner.run(plan), runner.run_before(plan)
    note = _found(ours) + (f"; before: {_found(theirs)}" if theirs is not None else "")
    work = f"days until the first alarm: {name}"
    mean = None if theirs is None else _mean_delay(theirs)
    return row(work, "days, mean", _mean_delay(ours), f"commit {BEFORE}", mean, None, note)


@dataclass(frozen=True)
class _Runner:
    """Runs a plan with this code and with that of the commit before, where there is one."""

    before: Path | None
    aucs: list[float]
    progress: Callable[[str], None]

    def run(self, plan: dict[str, Any]) -> Starts:
        self.progress(f"{len(plan['models'])} models, {plan['days']} days, {plan.get('change', 'quiet')}")
        return self._run(plan, None)

    def run_before(self, plan: dict[str, Any]) -> Starts | None:
        return None if self.before is None else self._run(plan, self.before)

    def _run(self, plan: dict[str, Any], before: Path | None) -> Starts:
        policy = {"false_alarms": 1.0, "log_analysis": {"segments": ["segment"]}}
        whole = {"policy": policy, "floors": True, "change": {}, "seed": 7, "aucs": self.aucs, **plan}
        path = [str(each) for each in (before, _ROOT) if each is not None]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.evidence.monitored_days", json.dumps(whole)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"},
            cwd=before or _ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        models: Starts = json.loads(done.stdout)["models"]
        return models


def _earlier_code(room: Path) -> Path | None:
    """The monitoring code of the commit before; None where the repository does not have it."""
    command = ["git", "-C", str(_ROOT), "archive", BEFORE, *_PACKAGES]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(room, filter="data")
    return room


def _count(models: Starts) -> int:
    return sum(len(days) for starts in models for days in starts.values())


def _by_kind(models: Starts) -> str:
    counts = {kind: sum(len(starts[kind]) for starts in models) for kind in models[0]}
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def _first(starts: Mapping[str, Sequence[int]]) -> tuple[int, str] | None:
    # Runs start on the third day: a day is that of the run's last window.
    after = [(day + 3 - QUIET_DAYS, kind) for kind, days in starts.items() for day in days if day + 2 >= QUIET_DAYS]
    return min(after, default=None)


def _mean_delay(models: Starts) -> float:
    firsts = [_first(starts) for starts in models]
    return float(np.mean([DELAY_DAYS + 1 if first is None else first[0] for first in firsts]))


def _found(models: Starts) -> str:
    firsts = [first for first in map(_first, models) if first is not None]
    by = ", ".join(f"{kind} {count}" for kind, count in Counter(kind for _, kind in firsts).most_common())
    return f"{len(firsts)} of {len(models)} models within {DELAY_DAYS} days, first by {by or 'none'}"
