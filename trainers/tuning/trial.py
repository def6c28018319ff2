"""Trials of a search, and how the winner is selected."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.values import Frozen, Stored
from trainers.config import ConfigChange, ModelSpec, Parameter, TrainConfig
from trainers.metrics import PrimaryMetric


class Trial(Stored, stored_as="trial", ser_json_inf_nan="strings"):
    """One trial of a search."""

    number: int
    """Number in the search; the first is 1."""
    parameters: dict[str, Parameter]
    """Values of the search space."""
    metric: float = math.nan
    """Best primary metric of its epochs; NaN without a result."""
    epochs: int = 0
    """Epochs done."""
    seconds: float = 0.0
    """Seconds of training."""
    status: Literal["running", "finished", "stopped", "failed"] = "running"
    """"stopped" is early, by ASHA, patience or the time budget; of "running" only the settings are known."""
    error: str = ""
    """Why it failed."""
    stage: Literal["search", "finalist"] = "search"
    """Whether it searches, or repeats a finalist."""
    seed: int = 0
    """Seed of its training."""
    parent: int = 0
    """The trial that a finalist repeats, or whose weights a population's member continues from; 0 is none."""
    curve: tuple[float, ...] = ()
    """Best primary metric up to each epoch."""
    at: float = 0.0
    """Seconds of the search at which it ended, over interruptions."""

    @property
    def has_result(self) -> bool:
        """Whether at least one epoch gave a metric."""
        return not math.isnan(self.metric)


class FinalistResult(Frozen):
    """A finalist's results under new seeds."""

    trial: int
    """Number of the trial in the search."""
    parameters: dict[str, Parameter]
    values: tuple[float, ...]
    """Primary metric under each seed."""

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without a result."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class TuneResult:
    """All trials by number, and the winner's settings."""

    trials: tuple[Trial, ...]
    best: Trial
    spec: ModelSpec
    config: TrainConfig
    metric: str
    seconds: float
    finalists: tuple[FinalistResult, ...] = ()
    """The best first."""
    direction: Literal["min", "max"] = "max"

    @property
    def summary(self) -> str:
        """The winner in one line."""
        winner = f"trial {self.best.number} wins with validation {self.metric}"
        if not self.finalists:
            return f"{winner} {self.best.metric:.4f}"
        first = self.finalists[0]
        spread = f" ± {first.spread:.4f}" if len(first.values) > 1 else ""
        return (
            f"{winner} {first.mean:.4f}{spread} over {len(first.values)} new seeds "
            f"({self.best.metric:.4f} in the search)"
        )


def format_value(value: object) -> str:
    """A setting's value for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_settings(trial: Trial) -> str:
    """A trial's settings for people."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in trial.parameters.items())


def rank_trials(trials: Iterable[Trial], metric: PrimaryMetric) -> list[Trial]:
    """Trials with a result, the best first; ties go to the earlier trial."""
    return sorted((t for t in trials if t.has_result), key=lambda t: (-metric.sign * t.metric, t.number))


def select_finalists(trials: Iterable[Trial], metric: PrimaryMetric, count: int) -> list[Trial]:
    """The best ``count`` trials of the search with distinct settings."""
    finalists: list[Trial] = []
    for trial in rank_trials((t for t in trials if t.stage == "search"), metric):
        if all(trial.parameters != other.parameters for other in finalists):
            finalists.append(trial)
    return finalists[:count]


def rank_finalists(
    finalists: Sequence[Trial], repeats: Iterable[Trial], metric: PrimaryMetric
) -> tuple[FinalistResult, ...]:
    """Finalists by their mean over ``repeats``, the best first.

    The result in the search is left out of the mean: it was selected for being good, which biases it.
    """
    scored = [repeat for repeat in repeats if repeat.has_result]
    results = []
    for trial in finalists:
        values = tuple(repeat.metric for repeat in scored if repeat.parent == trial.number)
        results.append(FinalistResult(trial=trial.number, parameters=trial.parameters, values=values))
    return tuple(sorted((s for s in results if s.values), key=lambda s: -metric.sign * s.mean))


def trace_changes(trials: Sequence[Trial], last: Trial) -> tuple[dict[str, Parameter], tuple[ConfigChange, ...]]:
    """Settings over the ancestry of a population's member.

    Args:
        trials: All trials.
        last: The member.

    Returns:
        The settings of its first ancestor, and the changes from there to ``last``.
    """
    by_number = {trial.number: trial for trial in trials}
    line = [last]
    while line[0].parent:
        line.insert(0, by_number[line[0].parent])
    changed = [
        ConfigChange.model_validate({"after": old.epochs, **new.parameters})
        for old, new in itertools.pairwise(line)
        if old.parameters != new.parameters
    ]
    return line[0].parameters, tuple(changed)
