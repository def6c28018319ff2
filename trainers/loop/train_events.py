"""The course of training: what is known while it goes on, at the end of each epoch, and of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cluster.values import Frozen

State = dict[str, np.ndarray]

STAGES = ("data", "forward", "backward", "optimiser", "checkpoint")
"""What the time of training is split into; averaging gradients over workers is part of "backward"."""


class Pulse(Frozen):
    """Training as it stands within an epoch, as seen by the first worker.

    ``loss`` is its mean over the epoch's steps so far, ``rows_per_second`` that of all workers; ``left_seconds`` counts to the last
    epoch's end, without validation. ``seconds`` are those of the epoch so far, by stage. ``resumed`` marks the first pulse of
    a run that went on from a checkpoint.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    rows_per_second: float
    left_seconds: float
    workers: int
    seconds: dict[str, float]
    resumed: bool = False

    def line(self) -> str:
        at = f"epoch {self.epoch}/{self.epochs}  step {self.step:,}/{self.steps:,}"
        if self.resumed:
            return f"{at}  goes on from a checkpoint, on {self.workers} workers"
        return (
            f"{at}  loss {self.loss:.4f}  {self.rows_per_second:,.0f} rows/s  {self.left_seconds:.0f} s left  "
            f"{told(self.seconds)}"
        )

    def figures(self) -> dict[str, float]:
        """The flat form that metric stores take."""
        return {
            "loss": self.loss,
            "lr": self.lr,
            "rows_per_second": self.rows_per_second,
            "left_seconds": self.left_seconds,
            "workers": float(self.workers),
            **{f"share_{stage}": share for stage, share in shares(self.seconds).items()},
        }


class Epoch(Frozen):
    """What is known at the end of an epoch. Seconds are of this epoch; ``loss`` is the mean training loss.

    ``best_so_far`` is the best value of the task's primary metric up to here; ``best`` says that it is this epoch's.
    ``seconds`` splits ``train_seconds`` by stage.
    """

    number: int
    of: int
    loss: float
    metrics: dict[str, float]
    lr: float
    rows_per_second: float
    train_seconds: float
    validation_seconds: float
    best: bool
    best_so_far: float
    seconds: dict[str, float] = Field(default_factory=dict)

    def line(self, metric: str) -> str:
        left = (self.of - self.number) * (self.train_seconds + self.validation_seconds)
        return (
            f"epoch {self.number}/{self.of}  loss {self.loss:.4f}  validation {metric} {self.metrics[metric]:.4f}"
            f"{' *' if self.best else '  '}  {self.rows_per_second:,.0f} rows/s  {left:.0f} s left  {told(self.seconds)}"
        ).rstrip()

    def report(self) -> dict[str, float]:
        """The flat form that Ray's report functions take."""
        return {
            "epoch": self.number,
            "epochs": self.of,
            "loss": self.loss,
            "best_so_far": self.best_so_far,
            **self.metrics,
        }


@dataclass(frozen=True)
class Outcome:
    """The weights of the best epoch by validation, and the course of training."""

    state: State
    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch:
        return next(epoch for epoch in reversed(self.epochs) if epoch.best)


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Each stage's part of the whole; nothing when no time has passed."""
    whole = sum(seconds.values())
    return {stage: spent / whole for stage, spent in seconds.items()} if whole else {}


def told(seconds: Mapping[str, float]) -> str:
    """The split in words, the largest part first: where to look for more speed."""
    parts = sorted(shares(seconds).items(), key=lambda part: -part[1])
    return ", ".join(f"{stage} {share:.0%}" for stage, share in parts if share >= 0.005)
