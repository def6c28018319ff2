"""When boosting stops: after rounds without a better validation metric."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.metrics import PrimaryMetric


@dataclass
class EarlyStopping:
    """The best evaluation so far.

    Args:
        metric: The metric that is compared.
        patience: Rounds after the best ones for which training continues.
    """

    metric: PrimaryMetric
    patience: int
    best_rounds: int = 0
    """Rounds of the model with the best metric; 0 before the first evaluation."""
    best: float = 0.0
    """Its metric."""

    def offer(self, value: float, rounds: int) -> bool:
        """Take in an evaluation; returns whether it is the best so far, as the first is."""
        better = not self.best_rounds or self.metric.is_better(value, self.best)
        if better:
            self.best, self.best_rounds = value, rounds
        return better

    def is_over(self, rounds: int) -> bool:
        """Whether training stops after ``rounds`` rounds."""
        return bool(self.best_rounds) and rounds - self.best_rounds >= self.patience
