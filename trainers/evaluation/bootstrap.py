"""Uncertainty of metrics: percentile bootstrap over rows (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.values import Frozen, Task
from trainers import metrics as task_metrics
from trainers.metrics import WeightedMetric


class Interval(Frozen):
    """The value of a metric and its confidence interval."""

    value: float
    low: float
    high: float


class PairedDifference(Frozen):
    """By how much a candidate is better than another model (negative: worse), and a lower bound of it."""

    value: float
    low: float


def confidence_intervals(
    task: Task, scores: np.ndarray, labels: np.ndarray, *, alpha: float, resamples: int, seed: int
) -> dict[str, Interval]:
    """Every metric of the task with its two-sided interval of confidence 1 - ``alpha``.

    Args:
        task: The task.
        scores: Scores of n rows (cluster.values.Task).
        labels: Labels of the same rows.
        alpha: Probability that an interval misses the metric.
        resamples: Number of bootstrap samples.
        seed: Seed of the samples.
    """
    metrics = {name: task_metrics.prepare(task, name, scores, labels) for name in task_metrics.METRICS[task.kind]}
    samples = resample(metrics, len(labels), resamples, seed)
    return {
        name: Interval(
            value=metric(None), low=_quantile(samples[name], alpha / 2), high=_quantile(samples[name], 1 - alpha / 2)
        )
        for name, metric in metrics.items()
    }


def paired_difference(
    task: Task,
    candidate: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray,
    *,
    alpha: float,
    resamples: int,
    seed: int,
) -> PairedDifference:
    """Difference of the primary metric with its one-sided bound of confidence 1 - ``alpha``.

    Args:
        task: The task of both models.
        candidate: Scores of the candidate.
        reference: Scores of the model it is compared with, on the same rows. Both see the same resamples.
        labels: Labels of the rows.
        alpha: Error of the bound.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    metric = task_metrics.primary_metric(task)
    candidate_metric, reference_metric = (
        task_metrics.prepare(task, metric.name, scores, labels) for scores in (candidate, reference)
    )

    def improvement(weights: np.ndarray | None) -> float:
        return metric.sign * (candidate_metric(weights) - reference_metric(weights))

    samples = resample({"difference": improvement}, len(labels), resamples, seed)["difference"]
    return PairedDifference(value=improvement(None), low=_quantile(samples, alpha))


def resample(metrics: Mapping[str, WeightedMetric], rows: int, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Evaluate metrics on bootstrap samples; all metrics see the same ones.

    Args:
        metrics: Each as a function of row weights, here how often a sample contains a row.
        rows: Number of rows.
        resamples: Number of samples.
        seed: Seed of the samples.

    Returns:
        Values [resamples] of each metric.
    """
    generator = np.random.default_rng(seed)
    samples = {name: np.empty(resamples) for name in metrics}
    for i in range(resamples):
        weights = np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)
        for name, metric in metrics.items():
            samples[name][i] = metric(weights)
    return samples


def _quantile(samples: np.ndarray, share: float) -> float:
    return float(np.quantile(samples, share))
