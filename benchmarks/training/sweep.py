"""Cost of a search relative to training the same epochs without one: sixteen trials under ASHA, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import NamedTuple

from benchmarks.results import Row, Target, row
from benchmarks.training.case import CONFIG, SPEC, TrainingCase
from benchmarks.training.runs import MEMORY, peer
from trainers.config import LogUniform, Space, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.loop.trainer import FitRequest
from trainers.tuning.search import search

AT_ONCE = 2
EPOCHS = 9
# Neither changes what an epoch costs, so that one bare rate holds for all trials.
_SPACE: dict[str, Space] = {"lr": LogUniform(low=3e-4, high=3e-2), "weight_decay": LogUniform(low=1e-4, high=1e-1)}
TUNING = TuneConfig(space=_SPACE, trials=16, max_concurrent=AT_ONCE, finalists=1)


class _SweepRound(NamedTuple):
    """Seconds of a search, and of the bare training of its ``epochs``."""

    seconds: float
    bare: float
    epochs: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.bare


def rows(case: TrainingCase, data: TrainingData, rounds: int, progress: Callable[[str], None]) -> list[Row]:
    """Alternate the search and the bare epochs."""
    config = CONFIG.model_copy(update={"epochs": EPOCHS})
    data.encode(case.encoder, case.task, config.cache_mib)
    peer(MEMORY, case, 1, 1, progress)  # installs it, and writes its rows
    sweep_rounds = [_round(case, data, config, number, progress) for number in range(rounds)]
    sweep_rounds.sort(key=lambda one: one.ratio)
    median_round = sweep_rounds[rounds // 2]
    note = (
        f"{median_round.epochs} epochs of up to {TUNING.trials * EPOCHS}, {AT_ONCE} trials at a time; with the start"
        f" of their processes and a validation after each epoch, which the bare epochs are without;"
        f" ratios of {rounds} rounds: " + ", ".join(f"{one.ratio:.2f}" for one in sweep_rounds)
    )
    target = Target(of="ratio", sign="≤", limit=1.4)
    peers = f"{MEMORY}, as many epochs"
    return [row("sweep: 16 trials under ASHA", "s", median_round.seconds, peers, median_round.bare, target, note)]


def _round(
    case: TrainingCase, data: TrainingData, config: TrainConfig, number: int, progress: Callable[[str], None]
) -> _SweepRound:
    rate = _rate(case, progress)
    # Each seed proposes different trials; ASHA decides how many epochs they get.
    tuning = TUNING.model_copy(update={"seed": number})
    result = search(FitRequest(SPEC, config, case.task, case.encoder), tuning, data, lambda line: None)
    epochs = sum(trial.epochs for trial in result.trials)
    swept = _SweepRound(result.seconds, epochs * case.part("train").num_rows / rate, epochs)
    progress(f"sweep: {swept.seconds:.1f} s for {epochs} epochs, which take {swept.bare:.1f} s bare")
    return swept


def _rate(case: TrainingCase, progress: Callable[[str], None]) -> float:
    """Total rows per second of as many plain processes as there are concurrent trials."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(peer, MEMORY, case, 1, EPOCHS, progress, f"at-once-{number}") for number in range(AT_ONCE)]
        return sum(median(run.result().rates[1:]) for run in runs)
