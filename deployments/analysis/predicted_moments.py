"""Moments that the losses would have if one of the two variants knew the probabilities of the labels. Pure.

A rare class decides a log loss, and the variance of the first labeled rows does not know of it: with 1% positives, half
of all samples of 70 rows have none, and two variants that differ in positives alone seem to differ by nothing. But the
scores of every row say what each label would have cost. A confidence sequence whose variance is the larger of the
observed and the predicted one is never narrower than it would be, so what the theorem promises remains; at small counts
it is right where the observed variance is not yet.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from cluster.row_losses import PROBABILITY_FLOOR, Metric
from cluster.values import Additive, Task
from deployments.analysis.paired_moments import PairedMoments


class PredictedMoments(Additive):
    """Moments of both losses on the labeled rows, with labels drawn from one variant's probabilities.

    Empty for a regression, whose scores are no distribution, and for accuracy, whose tests are exact.
    """

    by_champion: PairedMoments = PairedMoments()
    by_challenger: PairedMoments = PairedMoments()

    @classmethod
    def from_scores(cls, task: Task, champion: np.ndarray, challenger: np.ndarray, metric: Metric) -> Self:
        """Compute from the scores of both variants for the same rows, shaped as in ``row_loss``."""
        if task.kind == "regression" or metric != "loss" or not len(champion):
            return cls()
        both = [class_probabilities(task, scores) for scores in (champion, challenger)]
        losses = [-np.log(p) for p in both]
        return cls(by_champion=_moments(losses, both[0]), by_challenger=_moments(losses, both[1]))


def class_probabilities(task: Task, scores: np.ndarray) -> np.ndarray:
    """Return the probabilities [rows, labels, classes] of scores [rows], or [rows, classes or labels]."""
    clipped = np.clip(scores, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    if task.kind == "multiclass":
        return np.asarray(clipped[:, np.newaxis, :])
    columns = clipped.reshape(len(clipped), -1)
    return np.stack([1.0 - columns, columns], axis=-1)


def _moments(losses: list[np.ndarray], probabilities: np.ndarray) -> PairedMoments:
    """Total variance: that of the rows' expected losses, and that of the labels of each row, which are independent."""
    weights = probabilities / probabilities.sum(axis=-1, keepdims=True)
    a, b = ((weights * loss).sum(axis=-1, keepdims=True) for loss in losses)
    da, db = losses[0] - a, losses[1] - b
    spread_aa, spread_bb, spread_ab = (
        float((weights * x).sum()) / probabilities.shape[1] ** 2 for x in (da * da, db * db, da * db)
    )
    between = PairedMoments.from_losses(a.mean(axis=(1, 2)), b.mean(axis=(1, 2)))
    return between.model_copy(
        update={
            "m2_champion": between.m2_champion + spread_aa,
            "m2_challenger": between.m2_challenger + spread_bb,
            "comoment": between.comoment + spread_ab,
        }
    )
