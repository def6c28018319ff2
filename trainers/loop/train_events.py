"""Events of a training: progress within an epoch, the end of an epoch, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cluster.values import Frozen

Weights = dict[str, np.ndarray]

STAGES = ("data", "forward", "backward", "optimiser", "checkpoint")
"""Stages that training time is split into; "backward" includes averaging gradients over workers."""


# "optimiser" is part of stored metric names.
_LABELS = {"optimiser": "optimizer"}


class StepProgress(Frozen):
    """Progress within an epoch, as the first worker sees it."""

    epoch: int
    """Number of the epoch; the first is 1."""
    epochs: int
    """Epochs in total."""
    step: int
    """Steps done in this epoch."""
    steps: int
    """Steps of an epoch."""
    loss: float
    """Mean training loss over the epoch's steps so far."""
    lr: float
    """Learning rate of the next step."""
    rows_per_second: float
    """Training rows per second, over all workers."""
    left_seconds: float
    """Estimated seconds until the last epoch ends, without validation."""
    workers: int
    """Workers that train together."""
    seconds: dict[str, float]
    """Seconds of the epoch so far, by stage."""
    resumed: bool = False
    """Whether this is the first event after a resume from a checkpoint."""

    def format(self) -> str:
        """One line for people."""
        at = f"epoch {self.epoch}/{self.epochs}  step {self.step:,}/{self.steps:,}"
        if self.resumed:
            return f"{at}  resumed from a checkpoint on {self.workers} workers"
        return (
            f"{at}  loss {self.loss:.4f}  {self.rows_per_second:,.0f} rows/s  {self.left_seconds:.0f} s left  "
            f"{format_stages(self.seconds)}"
        )

    def as_metrics(self) -> dict[str, float]:
        """Values by name, for metric stores."""
        values = self.model_dump(include={"loss", "lr", "rows_per_second", "left_seconds", "workers"})
        return values | {f"share_{stage}": share for stage, share in stage_shares(self.seconds).items()}


class EpochResult(Frozen):
    """Losses, metrics and times of one epoch."""

    number: int
    """Number of the epoch; the first is 1."""
    of: int
    """Epochs in total."""
    loss: float
    """Mean training loss."""
    metrics: dict[str, float]
    """Metrics on the validation rows."""
    lr: float
    """Learning rate of the first step."""
    rows_per_second: float
    """Training rows per second, over all workers."""
    train_seconds: float
    """Wall-clock seconds of training."""
    validation_seconds: float
    """Wall-clock seconds of validation."""
    best: bool
    """Whether this epoch has the best primary metric so far."""
    best_so_far: float
    """Best primary metric up to this epoch."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """``train_seconds`` by stage."""

    def format(self, metric: str) -> str:
        """One line for people, with the validation ``metric``."""
        left = (self.of - self.number) * (self.train_seconds + self.validation_seconds)
        return (
            f"{self._position}  loss {self.loss:.4f}  validation {metric} {self.metrics[metric]:.4f}"
            f"{' *' if self.best else '  '}  {self.rows_per_second:,.0f} rows/s  {left:.0f} s left  "
            f"{format_stages(self.seconds)}"
        ).rstrip()

    @property
    def _position(self) -> str:
        return f"epoch {self.number}/{self.of}"

    def as_report(self) -> dict[str, float]:
        """Values by name, for the report functions of Ray Train and Ray Tune."""
        progress = {"epoch": self.number, "epochs": self.of, "loss": self.loss, "best_so_far": self.best_so_far}
        return progress | self.metrics


class BlockResult(EpochResult):
    """The result of one block of boosting rounds, which trees have in place of epochs."""

    rounds: int
    """Rounds so far."""

    @property
    def _position(self) -> str:
        return f"round {self.rounds}"


class AttemptResult(EpochResult):
    """The result of one training within a race of models, in place of an epoch; the last one is the ensemble's."""

    name: str
    """The candidate, or the members of the ensemble."""
    rows: int
    """Training rows."""
    elapsed: float
    """Seconds of the race so far."""
    budget: float
    """Seconds that the race has in all."""

    def format(self, metric: str) -> str:
        return (
            f"{self.name}, {self.rows:,} rows: validation {metric} {self.metrics[metric]:.4f}"
            f"{' *' if self.best else '  '}  {self.train_seconds:.1f} s  {self.elapsed:.0f} of {self.budget:.0f} s"
        )


@dataclass(frozen=True)
class TrainResult:
    """Weights of the epoch with the best primary metric, and all epochs."""

    state: Weights
    epochs: tuple[EpochResult, ...]

    @property
    def best(self) -> EpochResult:
        """The epoch that ``state`` is from."""
        return next(epoch for epoch in reversed(self.epochs) if epoch.best)


def stage_shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Share of each stage in the total time; empty if no time has passed."""
    total = sum(seconds.values())
    return {stage: spent / total for stage, spent in seconds.items()} if total else {}


def format_stages(seconds: Mapping[str, float]) -> str:
    """Shares of the stages as text, the largest first."""
    parts = sorted(stage_shares(seconds).items(), key=lambda part: -part[1])
    return ", ".join(f"{_LABELS.get(stage, stage)} {share:.0%}" for stage, share in parts if share >= 0.005)
