"""Metrics of each kind of task, on scores and labels as numpy arrays.

A metric is prepared once for given scores and labels, and evaluated under many row weights, as a bootstrap needs.
Weights are non-negative, of shape [n]; None weights all rows equally.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from cluster.errors import ProjectError
from cluster.row_losses import row_loss
from cluster.values import Task, TaskKind

CALIBRATION_BINS = 15

Direction = Literal["max", "min"]
WeightedMetric = Callable[[np.ndarray | None], float]


class PrimaryMetric(NamedTuple):
    """The metric that ranks epochs, trials and versions."""

    name: str
    direction: Direction

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is strictly better than ``than``."""
        return value > than if self.direction == "max" else value < than

    @property
    def sign(self) -> float:
        """1.0 when larger values are better, otherwise -1.0."""
        return 1.0 if self.direction == "max" else -1.0

    @property
    def worst(self) -> float:
        """A value that no other is worse than."""
        return -self.sign * np.inf


_PRIMARY: dict[TaskKind, PrimaryMetric] = {
    "binary": PrimaryMetric("auc", "max"),
    "multiclass": PrimaryMetric("log_loss", "min"),
    "regression": PrimaryMetric("rmse", "min"),
    "multilabel": PrimaryMetric("log_loss", "min"),
}

METRICS: dict[TaskKind, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "brier", "accuracy", "ece"),
    "multiclass": ("accuracy", "log_loss", "auc", "ece"),
    "regression": ("rmse", "mae", "r2"),
    "multilabel": ("auc", "log_loss", "accuracy", "ece"),
}


def primary_metric(task: Task) -> PrimaryMetric:
    """The metric that ranks models of this task."""
    return _PRIMARY[task.kind]


def evaluate(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of the task's kind, by name.

    Args:
        task: The task.
        scores: Scores of n rows, shaped as cluster.values.Task describes.
        labels: Labels of the same rows.

    Returns:
        Values by name; NaN where the labels do not define a metric, such as AUC of a single class.
    """
    return {name: prepare(task, name, scores, labels)(None) for name in METRICS[task.kind]}


def check_metric(task: Task, metric: str) -> None:
    """Check that the task's kind has ``metric``.

    Raises:
        ProjectError: It does not.
    """
    if metric not in METRICS[task.kind]:
        raise ProjectError("project.unknown_metric", metric=metric, task=task.kind, choices=list(METRICS[task.kind]))


def prepare(task: Task, metric: str, scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    """A metric over given rows, as a function of row weights.

    Args:
        task: The task.
        metric: Name of a metric of the task's kind.
        scores: Scores of n rows, shaped as cluster.values.Task describes.
        labels: Labels of the same rows.

    Returns:
        A function of weights [n] or None. It returns NaN if any score is NaN. Multi-label accuracy is the share of
        correct labels (1 - Hamming loss).

    Raises:
        ProjectError: The task has no such metric.
    """
    check_metric(task, metric)
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if np.isnan(scores).any():
        return lambda weights: float("nan")
    if metric == "log_loss":
        return _mean(row_loss(task, scores, labels))
    if metric == "accuracy":
        return _mean(1.0 - row_loss(task, scores, labels, "accuracy"))
    if task.kind == "regression":
        return _regression(metric, scores, labels)
    if task.kind == "multilabel":
        return _multilabel(metric, scores, labels)
    return _binary(metric, scores, labels) if task.kind == "binary" else _multiclass(metric, scores, labels)


def _binary(metric: str, scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    if metric == "auc":
        return auc(scores, labels)
    if metric == "ece":
        return calibration_error(scores, labels)
    return _mean((scores - labels) ** 2)


def _multiclass(metric: str, scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    if metric == "auc":
        # One-vs-rest, over the classes that occur (Hand & Till 2001 discuss the alternatives).
        return _mean_auc([auc(scores[:, k], labels == k) for k in range(scores.shape[1]) if np.any(labels == k)])
    return calibration_error(scores.max(axis=1), scores.argmax(axis=1) == labels)


def _multilabel(metric: str, scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    """Means over labels."""
    if metric == "auc":
        return _mean_auc([auc(scores[:, k], labels[:, k]) for k in range(scores.shape[1])])
    error = calibration_error(scores.ravel(), labels.ravel())
    return lambda weights: error(None if weights is None else np.repeat(weights, scores.shape[1]))


def _regression(metric: str, scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    if metric == "mae":
        return _mean(np.abs(scores - labels))
    squared = _mean((scores - labels) ** 2)
    if metric == "rmse":
        return lambda weights: float(np.sqrt(squared(weights)))
    return lambda weights: _r2(squared(weights), labels, weights)


def auc(scores: np.ndarray, labels: np.ndarray) -> WeightedMetric:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counted half (Hanley & McNeil 1982)."""
    values, group = np.unique(scores, return_inverse=True)
    positive = np.asarray(labels == 1, np.float64)

    def weighted_auc(weights: np.ndarray | None) -> float:
        weight = np.ones_like(positive) if weights is None else weights
        up = np.bincount(group, weight * positive, minlength=len(values))
        down = np.bincount(group, weight * (1 - positive), minlength=len(values))
        pairs = up.sum() * down.sum()
        return float(up @ (np.cumsum(down) - down / 2) / pairs) if pairs else float("nan")

    return weighted_auc


def calibration_error(scores: np.ndarray, hits: np.ndarray) -> WeightedMetric:
    """Expected calibration error over 15 equal-width bins (Naeini et al. 2015; Guo et al. 2017, section 2)."""
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = scores - hits

    def weighted_error(weights: np.ndarray | None) -> float:
        weight = np.ones_like(gaps) if weights is None else weights
        return float(np.abs(np.bincount(bins, weight * gaps, minlength=CALIBRATION_BINS)).sum() / weight.sum())

    return weighted_error


def _mean_auc(metrics: list[WeightedMetric]) -> WeightedMetric:
    """Mean of the defined values."""

    def weighted_mean(weights: np.ndarray | None) -> float:
        values = np.array([metric(weights) for metric in metrics])
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")

    return weighted_mean


def _mean(values: np.ndarray) -> WeightedMetric:
    rows = np.asarray(values, np.float64)
    return lambda weights: float(rows.mean() if weights is None else rows @ weights / weights.sum())


def _r2(squared_error: float, labels: np.ndarray, weights: np.ndarray | None) -> float:
    variance = float(np.average((labels - np.average(labels, weights=weights)) ** 2, weights=weights))
    return 1 - squared_error / variance if variance > 0 else float("nan")
