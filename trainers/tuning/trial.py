"""Trials of a search, the finalists among them, and how one of them wins."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from cluster.values import Frozen, Stored
from trainers.config import Change, ModelSpec, Parameter, TrainConfig
from trainers.metrics import Primary


class Trial(Stored):
    """One row of the table of trials. ``metric`` is the best of its epochs, NaN when it failed; ``curve`` the best up to each.

    "stopped": it ended before its last epoch, by ASHA, patience or the time budget. "running": nothing is known yet but its settings.
    ``parent`` is the trial that a finalist repeats under another seed, or, of a population, the one it went on from; 0 is none.
    ``at`` counts seconds of the search, over interruptions, to its end.
    """

    stored_as: ClassVar[str] = "trial"

    model_config = ConfigDict(ser_json_inf_nan="strings")

    number: int
    parameters: dict[str, Parameter]
    metric: float = math.nan
    epochs: int = 0
    seconds: float = 0.0
    status: Literal["running", "finished", "stopped", "failed"] = "running"
    error: str = ""
    stage: Literal["search", "finalist"] = "search"
    seed: int = 0
    parent: int = 0
    curve: tuple[float, ...] = ()
    at: float = 0.0

    @property
    def able(self) -> bool:
        return not math.isnan(self.metric)


class Standing(Frozen):
    """A finalist: the trial it was, and its metric under each of the seeds that trial had not seen."""

    trial: int
    parameters: dict[str, Parameter]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (n - 1); NaN of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class TuneResult:
    """All trials in the order in which they were proposed, and the winner as what to fit. ``standings`` has the best first."""

    trials: tuple[Trial, ...]
    best: Trial
    spec: ModelSpec
    config: TrainConfig
    metric: str
    seconds: float
    standings: tuple[Standing, ...] = ()
    direction: Literal["min", "max"] = "max"

    @property
    def told(self) -> str:
        """Who won, in a line."""
        won = f"trial {self.best.number} wins with validation {self.metric}"
        if not self.standings:
            return f"{won} {self.best.metric:.4f}"
        first = self.standings[0]
        spread = f" ± {first.spread:.4f}" if len(first.values) > 1 else ""
        return (
            f"{won} {first.mean:.4f}{spread} over {len(first.values)} new seeds ({self.best.metric:.4f} in the search)"
        )


def ranked(trials: Iterable[Trial], metric: Primary) -> list[Trial]:
    """Trials that gave a result, the best first; of equals the earlier."""
    sign = -1.0 if metric.direction == "max" else 1.0
    return sorted((t for t in trials if t.able), key=lambda t: (sign * t.metric, t.number))


def finalists(trials: Iterable[Trial], metric: Primary, count: int) -> list[Trial]:
    """The best ``count`` trials of the search with settings of their own."""
    found: list[Trial] = []
    for trial in ranked((t for t in trials if t.stage == "search"), metric):
        if all(trial.parameters != other.parameters for other in found):
            found.append(trial)
    return found[:count]


def standings(chosen: Sequence[Trial], repeats: Iterable[Trial], metric: Primary) -> tuple[Standing, ...]:
    """The finalists by their mean over ``repeats``, the best first.

    The trial's own value is left out: it was chosen for being high, and would make luck count.
    """
    values: dict[int, list[float]] = {trial.number: [] for trial in chosen}
    for repeat in repeats:
        if repeat.able and repeat.parent in values:
            values[repeat.parent].append(repeat.metric)
    sign = -1.0 if metric.direction == "max" else 1.0
    found = [Standing(trial=t.number, parameters=t.parameters, values=tuple(values[t.number])) for t in chosen]
    return tuple(sorted((s for s in found if s.values), key=lambda s: sign * s.mean))


def changes(trials: Sequence[Trial], last: Trial) -> tuple[dict[str, Parameter], tuple[Change, ...]]:
    """The settings that a population's trial began with, and what changed after which epoch on the way to ``last``."""
    known = {trial.number: trial for trial in trials}
    line = [last]
    while line[0].parent:
        line.insert(0, known[line[0].parent])
    made = [
        Change.model_validate({"after": old.epochs, **new.parameters})
        for old, new in itertools.pairwise(line)
        if old.parameters != new.parameters
    ]
    return line[0].parameters, tuple(made)
