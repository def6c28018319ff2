"""What a prediction costs once its label is known. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.errors import RolloutError
from cluster.values import Task

Metric = Literal["loss", "accuracy"]
"""loss: log loss in nats, or squared error for regression. accuracy: 0/1 loss, 1 for a wrong class."""

PROBABILITY_FLOOR = 1e-6
"""Probabilities are clipped to [floor, 1 - floor]: one confident mistake costs 13.8 nats, not infinitely many."""


def losses(task: Task, scores: np.ndarray, labels: np.ndarray, metric: Metric = "loss") -> np.ndarray:
    """Loss of each row, float64 [n], at least 0.

    ``scores`` and ``labels`` as contracts.Task says. Raises RolloutError as ``check_metric`` does.
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
    clipped: np.ndarray = np.clip(probability, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    return np.asarray(-np.log(clipped))


def check_metric(task: Task, metric: Metric) -> None:
    """Raises RolloutError when ``metric`` says nothing about ``task``."""
    if metric == "accuracy" and task.kind == "regression":
        raise RolloutError("a regression has no accuracy", 'let the rollout policy\'s metric be "loss"')


def _mistakes(task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    guessed = scores.argmax(axis=1) if task.kind == "multiclass" else scores > 0.5
    return np.asarray((guessed != labels.astype(np.int64)).astype(np.float64))
