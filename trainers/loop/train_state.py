"""Progress of a training: what a checkpoint holds in addition to module and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from trainers.config import TrainConfig
from trainers.loop.train_events import EpochResult, StepProgress, TrainResult
from trainers.metrics import PrimaryMetric


@dataclass
class BestWeights:
    """The best epoch's weights so far."""

    value: float
    """Its primary metric."""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """On the first worker only."""
    stale: int = 0
    """Epochs since."""


@dataclass
class TrainState:
    """Completed epochs, and the position within the current one."""

    best: BestWeights
    loss: torch.Tensor
    """Sum of the losses of the current epoch's steps."""
    steps: int
    """Steps of an epoch."""
    epochs: list[EpochResult] = field(default_factory=list)
    at: int = 0
    """Steps done in the current epoch."""
    earlier_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by stage of the current epoch before a resume."""

    def is_over(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or patience has run out."""
        return len(self.epochs) >= config.epochs or bool(config.patience and self.best.stale >= config.patience)

    def offer(self, metric: PrimaryMetric, value: float, weights: dict[str, torch.Tensor]) -> bool:
        """Keep ``weights`` if ``value`` is the best so far, as the first is; returns whether it is."""
        better = not self.epochs or metric.is_better(value, self.best.value)
        self.best = BestWeights(value, weights) if better else replace(self.best, stale=self.best.stale + 1)
        return better

    def end(self, epoch: EpochResult) -> None:
        """End the current epoch."""
        self.epochs.append(epoch)
        self.at, self.earlier_seconds = 0, {}
        self.loss.zero_()

    def result(self) -> TrainResult:
        """The best weights and all epochs."""
        return TrainResult({name: value.numpy() for name, value in self.best.weights.items()}, tuple(self.epochs))

    def progress(
        self, config: TrainConfig, rows: int, workers: int, lr: float, seconds: dict[str, float]
    ) -> StepProgress:
        """Progress within the current epoch.

        Args:
            config: Settings of the training.
            rows: Rows of an epoch.
            workers: Number of workers.
            lr: Current learning rate.
            seconds: Seconds of this epoch by stage.
        """
        spent = sum(seconds.values())
        rate = self.at / spent if spent else 0.0
        left = (config.epochs - len(self.epochs)) * self.steps - self.at
        return StepProgress(
            epoch=min(len(self.epochs) + 1, config.epochs),
            epochs=config.epochs,
            step=self.at,
            steps=self.steps,
            loss=float(self.loss) / self.at if self.at else 0.0,
            lr=lr,
            rows_per_second=rate * rows / self.steps,
            left_seconds=left / rate if rate else 0.0,
            workers=workers,
            seconds=seconds,
        )
