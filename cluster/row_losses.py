"""Loss of each prediction once its label is known, for model metrics, the gate, and rollout analysis. Pure.

The floor and the threshold below are the only ones: ``log_loss`` and ``accuracy`` must be the same numbers in training,
in the gate, in a rollout and in monitoring, because people compare them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.errors import RolloutError
from cluster.values import Task

Metric = Literal["loss", "accuracy"]
"""loss: log loss in nats, or squared error for regression. accuracy: 0/1 loss, 1 for a wrong class."""

PROBABILITY_FLOOR = 1e-6
"""Probabilities are clipped to [floor, 1 - floor]: one confident mistake costs 13.8 nats, not infinitely many.

The floor is well above the resolution of float32 at 1 (6e-8), since models answer in float32: 1 - floor must not round
to 1.
"""
DECISION_THRESHOLD = 0.5
"""Binary and multi-label: a score of at least this predicts the label."""


def row_loss(task: Task, scores: np.ndarray, labels: np.ndarray, metric: Metric = "loss") -> np.ndarray:
    """Loss of each row; multi-label: the mean over its labels.

    Args:
        task: Kind of task, which sets the shapes of ``scores`` and ``labels`` (see cluster.values.Task).
        scores: Predicted probabilities, or predicted values for regression.
        labels: Observed labels of the same rows.
        metric: Which loss.

    Returns:
        Floats [n], at least 0.

    Raises:
        RolloutError: As ``check_metric``.
    """
    check_metric(task, metric)
    if metric == "accuracy":
        return _mistakes(task, scores, labels)
    if task.kind == "regression":
        return np.asarray(np.square(scores - labels))
    if task.kind == "multiclass":
        probability = scores[np.arange(len(labels)), labels.astype(np.int64)]
    else:
        probability = np.where(labels > 0.5, scores, 1.0 - scores)
    loss = -np.log(np.clip(probability, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR))
    return np.asarray(loss.mean(axis=1) if task.kind == "multilabel" else loss)


def check_metric(task: Task, metric: Metric) -> None:
    """Check that ``metric`` is defined for ``task``.

    Raises:
        RolloutError: Accuracy of a regression.
    """
    if metric == "accuracy" and task.kind == "regression":
        raise RolloutError("rollout.metric_not_defined", metric=metric, task=task.kind)


def _mistakes(task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    predicted = scores.argmax(axis=1) if task.kind == "multiclass" else scores >= DECISION_THRESHOLD
    mistakes = np.asarray((predicted != labels.astype(np.int64)).astype(np.float64))
    return np.asarray(mistakes.mean(axis=1)) if task.kind == "multilabel" else mistakes
