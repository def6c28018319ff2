"""Rows per second in the steady state and in the first epoch, and the time of a fit outside its epochs."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed
from benchmarks.training.case import CONFIG, TrainingCase
from benchmarks.training.runs import LIGHTNING, MEMORY, TORCHRUN, PeerFailed, TrainingRun, peer, rayloop
from trainers.data.datasets import TrainingData

WORKERS = (1, 2)
OURS = "rayloop"
_TARGETS = {
    TORCHRUN: Target(of="ratio", sign="≥", limit=0.95),
    MEMORY: Target(of="ratio", sign="≥", limit=0.9),
    LIGHTNING: None,
}
_FIRST = Target(of="ratio", sign="≥", limit=0.8)
_AROUND = Target(of="value", sign="≤", limit=8)

Runs = dict[tuple[str, int], list[TrainingRun]]


def rows(case: TrainingCase, data: TrainingData, rounds: int, progress: Callable[[str], None]) -> list[Row]:
    """All alternate, every other round in reverse."""
    rayloop(case, data, epochs=1)  # starts the workers' processes and encodes
    runs: Runs = {}
    why: dict[str, str] = {}
    turns = [(name, n) for n in WORKERS for name in (OURS, TORCHRUN, LIGHTNING, *([MEMORY] if n == 1 else []))]
    for number in range(rounds):
        for name, workers in turns if number % 2 == 0 else reversed(turns):
            try:
                latest = _one(name, workers, case, data, progress)
            except (PeerFailed, InstallFailed) as error:
                why[name] = str(error)
                continue
            runs.setdefault((name, workers), []).append(latest)
            progress(f"{name}, {workers} workers: {_steady([latest]):,.0f} rows/s, {latest.around_s:.1f} s around")
    return [*_rates(runs, why), *_firsts(runs), *_arounds(runs)]


def _one(
    name: str, workers: int, case: TrainingCase, data: TrainingData, progress: Callable[[str], None]
) -> TrainingRun:
    if name == OURS:
        return rayloop(case, data, workers=workers)
    return peer(name, case, workers, CONFIG.epochs, progress)


def _rates(runs: Runs, why: dict[str, str]) -> list[Row]:
    rows = []
    for workers in WORKERS:
        ours = runs[OURS, workers]
        work = f"steady: training rows per second, {_workers(workers)}"
        for name, target in _TARGETS.items():
            theirs = runs.get((name, workers if name != MEMORY else 1))
            if name != MEMORY or workers == 1:
                value = _steady(theirs) if theirs else None
                rows.append(
                    row(work, "rows/s", _steady(ours), name, value, target, why.get(name, _format_values(ours)))
                )
    return rows


def _firsts(runs: Runs) -> list[Row]:
    rows = []
    for workers in WORKERS:
        first = median(training_run.rates[0] for training_run in runs[OURS, workers])
        work = f"first_epoch: rows per second of the first epoch, {_workers(workers)}"
        rows.append(row(work, "rows/s", first, "rayloop, later epochs", _steady(runs[OURS, workers]), _FIRST))
    return rows


def _arounds(runs: Runs) -> list[Row]:
    rows = []
    for workers in WORKERS:
        ours = median(training_run.around_s for training_run in runs[OURS, workers])
        work = f"fit_overhead: start and end of a fit on a warm cluster, {_workers(workers)}"
        theirs = {name: peer_runs for (name, n), peer_runs in runs.items() if n == workers and name != OURS}
        for number, (name, peer_runs) in enumerate(theirs.items()):
            value = median(training_run.around_s for training_run in peer_runs)
            rows.append(row(work, "s", ours, name, value, None if number else _AROUND, "" if number else _NOTE))
    return rows


_NOTE = "all but encoding, training and validation; the peers': start of their processes and reading of Parquet"


def _steady(runs: list[TrainingRun]) -> float:
    """The median epoch after the first, of all rounds."""
    return median(rate for training_run in runs for rate in training_run.rates[1:])


def _format_values(ours: list[TrainingRun]) -> str:
    return ", ".join(f"{stage} {share:.0%}" for stage, share in ours[-1].shares.items() if share >= 0.005)


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"
