"""Labels that follow the scores more closely than what happened can: they were made from predictions. Pure."""

from __future__ import annotations

import numpy as np
from scipy import special

from cluster.values import Task
from deployments.analysis.sequential_tests import log_e_above

MOST_SHARP, SHARP = 4.0, 12.0
"""Powers of the odds: the highest at which labels may follow the scores, and the one that is found soonest."""
MOST_EQUAL = 0.25
"""Regression: the largest share of labels that may be equal to their score."""
_EQUAL = 1e-6
_SURE = 1.0 - 1e-6


def log_e_copied(task: Task, labels: np.ndarray, scores: np.ndarray, effect: float) -> float:
    """Log e-value against "labels happened, and were not made from these scores".

    Regression: at most MOST_EQUAL of the labels are equal to a score that is no whole number. Classes: the odds that
    the likeliest class is right are at most those of the scores to the power of MOST_SHARP. Its e-value is a
    likelihood ratio of Bernoulli variables, whose mean is at most 1 for all odds up to that.

    Args:
        task: Task of the model.
        labels: Labels, [rows]; whole numbers for classes.
        scores: Scores, [rows, outputs].
        effect: Design effect, by which counts are divided.
    """
    if task.kind == "regression":
        score = scores[:, 0]
        equal = np.isclose(labels, score, rtol=_EQUAL, atol=0.0) & (score != np.round(score))
        return float(log_e_above(equal.sum() / effect, len(labels) / effect, MOST_EQUAL))
    likeliest = scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0] > 0.5
    probability = np.maximum(scores, 1.0 - scores)[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    logit = special.logit(probability.clip(0.5, _SURE)) * np.where(labels == likeliest, 1.0, -1.0)
    gain = special.log_expit(SHARP * logit) - special.log_expit(MOST_SHARP * logit)
    return float(gain.sum() / effect)
