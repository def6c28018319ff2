"""Cost of checkpoints: training with one every 100 steps, written in the background, compared with none."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.results import Row, Target, row
from benchmarks.training.case import CONFIG, TrainingCase
from benchmarks.training.runs import rayloop
from trainers.data.datasets import TrainingData

EVERY = 100
WORKERS = 2


def rows(case: TrainingCase, data: TrainingData, rounds: int, progress: Callable[[str], None]) -> list[Row]:
    rayloop(case, data, workers=WORKERS, epochs=1)
    rates: dict[int, list[float]] = {0: [], EVERY: []}
    shares = []
    for number in range(rounds):
        for every in (0, EVERY) if number % 2 == 0 else (EVERY, 0):
            training_run = rayloop(case, data, workers=WORKERS, checkpoint_steps=every)
            rates[every] += training_run.rates[1:]
            shares += [training_run.shares["checkpoint"]] if every else []
            progress(f"a checkpoint every {every} steps: {median(training_run.rates[1:]):,.0f} rows/s")
    steps = CONFIG.epochs * -(-case.part("train").num_rows // CONFIG.batch_size)
    note = f"{steps // EVERY} checkpoints a fit, {WORKERS} workers"
    return [
        row(
            f"checkpoint: rows per second with one every {EVERY} steps", "rows/s",
            median(rates[EVERY]), "rayloop, without", median(rates[0]), Target(of="ratio", sign="≥", limit=0.98), note,
        ),
        row(
            f"checkpoint: share of the steps' time, one every {EVERY} steps", "%",
            100 * median(shares), target=Target(of="value", sign="≤", limit=2), note=f"{note}; on the first worker",
        ),
    ]  # fmt: skip
