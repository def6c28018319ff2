"""How far a training has come: what a checkpoint has to hold beside the module and its optimiser."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from trainers.config import TrainConfig
from trainers.loop.train_events import Epoch, Outcome, Pulse
from trainers.metrics import Primary


@dataclass
class Best:
    """The best weights so far; ``weights`` are on the first worker only. ``stale`` counts epochs since."""

    value: float
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    stale: int = 0


@dataclass
class Progress:
    """``at`` steps of the present epoch are done, ``loss`` is the sum of theirs, ``spent`` their seconds by stage before a resumption."""

    best: Best
    loss: torch.Tensor
    epochs: list[Epoch] = field(default_factory=list)
    at: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def over(self, config: TrainConfig) -> bool:
        stale = config.patience and self.best.stale >= config.patience
        return len(self.epochs) >= config.epochs or bool(stale)

    def offer(self, metric: Primary, value: float, weights: dict[str, torch.Tensor]) -> bool:
        """Keep ``weights`` if ``value`` is the best yet. The first is."""
        better = not self.epochs or metric.better(value, self.best.value)
        self.best = Best(value, weights) if better else Best(self.best.value, self.best.weights, self.best.stale + 1)
        return better

    def end(self, epoch: Epoch) -> None:
        """The present epoch has ended; the next one begins."""
        self.epochs.append(epoch)
        self.at, self.spent = 0, {}
        self.loss.zero_()

    def outcome(self) -> Outcome:
        return Outcome({name: value.numpy() for name, value in self.best.weights.items()}, tuple(self.epochs))

    def pulse(
        self, config: TrainConfig, steps: int, rows: int, workers: int, lr: float, seconds: dict[str, float]
    ) -> Pulse:
        """``steps`` and ``rows`` are those of a whole epoch, ``seconds`` those spent on this one."""
        spent = sum(seconds.values())
        rate = self.at / spent if spent else 0.0
        left = (config.epochs - len(self.epochs)) * steps - self.at
        return Pulse(
            epoch=min(len(self.epochs) + 1, config.epochs),
            epochs=config.epochs,
            step=self.at,
            steps=steps,
            loss=float(self.loss) / self.at if self.at else 0.0,
            lr=lr,
            rows_per_second=rate * rows / steps,
            left_seconds=left / rate if rate else 0.0,
            workers=workers,
            seconds=seconds,
        )
