"""What a search costs beside the bare training of the epochs that it trained: sixteen trials under ASHA, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.results import Row, Target, row
from benchmarks.training.case import CONFIG, SPEC, Case
from benchmarks.training.runs import MEMORY, peer
from trainers.config import LogUniform, Space, TuneConfig
from trainers.data import TrainingData
from trainers.tune import search

AT_ONCE = 2
EPOCHS = 9
# Neither changes what an epoch costs, so that one bare rate holds for all trials.
_SPACE: dict[str, Space] = {"lr": LogUniform(low=3e-4, high=3e-2), "weight_decay": LogUniform(low=1e-4, high=1e-1)}
TUNING = TuneConfig(space=_SPACE, trials=16, max_concurrent=AT_ONCE, finalists=1)


def rows(case: Case, data: TrainingData, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """The search and the bare epochs by turns."""
    config = CONFIG.model_copy(update={"epochs": EPOCHS})
    data.encoded(case.encoder, case.task, config.cache_mib)
    peer(MEMORY, case, 1, 1, say)  # installs it, and writes its rows
    swept, bare, trained = [], [], []
    for number in range(rounds):
        rate = _rate(case, say)
        # Another seed proposes other trials; how many epochs they get is up to ASHA.
        tuning = TUNING.model_copy(update={"seed": number})
        found = search(SPEC, config, tuning, case.task, case.encoder, data, lambda line: None)
        epochs = sum(trial.epochs for trial in found.trials)
        swept.append(found.seconds)
        bare.append(epochs * case.part("train").num_rows / rate)
        trained.append(epochs)
        say(f"sweep: {swept[-1]:.1f} s for {epochs} epochs, which take {bare[-1]:.1f} s bare")
    ratios = [took / least for took, least in zip(swept, bare, strict=True)]
    middle = ratios.index(sorted(ratios)[len(ratios) // 2])
    note = (
        f"{trained[middle]} epochs of up to {TUNING.trials * EPOCHS}, {AT_ONCE} trials at a time; with the start of their "
        f"processes and a validation after each epoch, which the bare epochs are without; ratios of {rounds} rounds: "
        + ", ".join(f"{one:.2f}" for one in sorted(ratios))
    )
    target = Target(of="ratio", sign="≤", limit=1.4)
    return [
        row("sweep: 16 trials under ASHA", "s", swept[middle], f"{MEMORY}, as many epochs", bare[middle], target, note)
    ]


def _rate(case: Case, say: Callable[[str], None]) -> float:
    """Rows per second of as many plain processes as there are trials at a time, together."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(peer, MEMORY, case, 1, EPOCHS, say, f"at-once-{number}") for number in range(AT_ONCE)]
        return sum(median(run.result().rates[1:]) for run in runs)
