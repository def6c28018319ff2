"""How sure a metric is: bootstrap over rows, by their percentiles (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.values import Frozen, Task
from trainers import metrics as task_metrics
from trainers.metrics import Weighted


class Interval(Frozen):
    """A metric's value, and the interval that covers the true one with the stated confidence."""

    value: float
    low: float
    high: float


class Difference(Frozen):
    """By how much a candidate is better than a champion (negative: worse), and a lower bound of that."""

    value: float
    low: float


def intervals(
    task: Task, scores: np.ndarray, labels: np.ndarray, *, alpha: float, resamples: int, seed: int
) -> dict[str, Interval]:
    """Every metric of the task with its two-sided interval of confidence 1 - ``alpha``."""
    metrics = {name: task_metrics.prepare(task, name, scores, labels) for name in task_metrics.METRICS[task.kind]}
    drawn = draws(metrics, len(labels), resamples, seed)
    return {
        name: Interval(
            value=metric(None), low=_quantile(drawn[name], alpha / 2), high=_quantile(drawn[name], 1 - alpha / 2)
        )
        for name, metric in metrics.items()
    }


def paired_difference(
    task: Task,
    candidate: np.ndarray,
    champion: np.ndarray,
    labels: np.ndarray,
    *,
    alpha: float,
    resamples: int,
    seed: int,
) -> Difference:
    """Difference of the primary metric with its one-sided bound. Both models are scored on the same draw of rows."""
    metric = task_metrics.primary(task)
    sign = 1.0 if metric.direction == "max" else -1.0
    ours, theirs = (task_metrics.prepare(task, metric.name, scores, labels) for scores in (candidate, champion))

    def better(weights: np.ndarray | None) -> float:
        return sign * (ours(weights) - theirs(weights))

    drawn = draws({"difference": better}, len(labels), resamples, seed)["difference"]
    return Difference(value=better(None), low=_quantile(drawn, alpha))


def draws(metrics: Mapping[str, Weighted], rows: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Each metric [resamples] under the same resamplings of ``rows``, as counts of how often a row was drawn."""
    generator = np.random.default_rng(seed)
    found = {name: np.empty(resamples) for name in metrics}
    for i in range(resamples):
        weights = np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)
        for name, metric in metrics.items():
            found[name][i] = metric(weights)
    return found


def _quantile(drawn: np.ndarray, share: float) -> float:
    return float(np.quantile(drawn, share))
