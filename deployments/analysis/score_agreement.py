"""How far the scores of two variants differ on the same rows, and what that may cost, before any label is known. Pure.

A distance says nothing about who is right. But scores of classes are probabilities: if labels follow the champion's,
the challenger's expected loss is larger than the champion's by the divergence of its probabilities from them; if labels
follow the challenger's, it is smaller by the reverse divergence. Where labels follow a mixture of both, the difference
is between the two (Gneiting, Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102(477), 2007,
section 2.1: the expected score is linear in the distribution of the labels). Nothing here tells what happens where
labels follow neither.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from cluster.row_losses import Metric
from cluster.values import Additive, Task
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.predicted_moments import class_probabilities


class ScoreAgreement(Additive):
    """Moments over rows that both variants scored, labeled or not."""

    distance: PairedMoments = PairedMoments()
    """``challenger``: the distance of the scores of a row; ``champion``: the unit in which it is measured.

    Classification: the total variation of the probabilities, in units of 1. Regression: the squared difference, in
    units of the squared deviation of the champion's score from its mean.
    """
    by_champion: PairedMoments = PairedMoments()
    """Expected costs if labels follow the champion's probabilities; empty for a regression."""
    by_challenger: PairedMoments = PairedMoments()
    """Expected costs if labels follow the challenger's probabilities; empty for a regression."""

    @classmethod
    def from_scores(
        cls, task: Task, champion: np.ndarray, challenger: np.ndarray, metric: Metric, keys: np.ndarray | None = None
    ) -> Self:
        """Compute from the scores of both variants for the same rows, shaped as in ``row_loss``.

        Args:
            task: The model's task.
            champion: Scores.
            challenger: Scores.
            metric: Cost of a prediction.
            keys: Key of each row; None: all rows are independent.
        """
        if not len(champion):
            return cls()
        if task.kind == "regression":
            deviation, difference = np.square(champion - champion.mean()), np.square(challenger - champion)
            return cls(distance=PairedMoments.from_losses(deviation, difference, keys))
        p, q = (_normalized(class_probabilities(task, scores)) for scores in (champion, challenger))
        distance = 0.5 * np.abs(p - q).sum(axis=-1).mean(axis=-1)
        costs = [_class_costs(x, metric) for x in (p, q)]
        return cls(
            distance=PairedMoments.from_losses(np.ones(len(p)), distance, keys),
            by_champion=_expected(p, costs, keys),
            by_challenger=_expected(q, costs, keys),
        )

    @property
    def rows(self) -> int:
        """Rows that both variants scored."""
        return self.distance.n

    @property
    def mean_distance(self) -> float:
        """Mean distance in its unit, as ``RolloutPolicy.max_disagreement`` has it; 0 without rows."""
        if not self.distance.champion:
            return math.inf if self.distance.challenger else 0.0
        return self.distance.challenger / self.distance.champion


def _normalized(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(probabilities / probabilities.sum(axis=-1, keepdims=True))


def _class_costs(probabilities: np.ndarray, metric: Metric) -> np.ndarray:
    """Cost [rows, labels, classes] of a prediction for each class that may turn out to be true."""
    if metric == "loss":
        return -np.log(probabilities)
    predicted = probabilities.argmax(axis=-1)
    return np.asarray(predicted[..., np.newaxis] != np.arange(probabilities.shape[-1]), np.float64)


def _expected(weights: np.ndarray, costs: list[np.ndarray], keys: np.ndarray | None) -> PairedMoments:
    champion, challenger = ((weights * cost).sum(axis=-1).mean(axis=-1) for cost in costs)
    return PairedMoments.from_losses(champion, challenger, keys)
