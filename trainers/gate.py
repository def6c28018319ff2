"""The gate between a trained model and the registry: declared thresholds, and the champion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import Field

from cluster.contracts import Check, Frozen, GateReport, Task
from trainers import tasks


class Threshold(Frozen):
    """A metric on the held-out rows must lie between ``min`` and ``max``, both included; None is no bound."""

    metric: str
    min: float | None = None
    max: float | None = None


class GatePolicy(Frozen):
    """What a candidate must show.

    ``margin``: it may be worse than the champion by this much of the task's primary metric, on the same rows; the
    bound is one-sided with error ``alpha``, from a paired bootstrap. None compares with no champion.
    ``max_gap``: the primary metric may be worse on validation than on training rows by this much. None: by any amount.
    ``max_parity``: the exported model's scores may differ from the training module's by this much.
    ``max_quantization_loss``: with int8 weights its primary metric may be worse by this share of the metric's value, with
    the same kind of bound as ``margin``.
    """

    thresholds: tuple[Threshold, ...] = ()
    margin: float | None = Field(default=None, ge=0)
    max_gap: float | None = Field(default=None, ge=0)
    max_parity: float = Field(default=1e-4, gt=0)
    max_quantization_loss: float = Field(default=0.005, ge=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    resamples: int = Field(default=500, ge=100)
    seed: int = Field(default=0, ge=0)


class Difference(Frozen):
    """By how much a candidate is better than a champion (negative: worse), and a lower bound of that."""

    value: float
    low: float


def judge(
    policy: GatePolicy,
    task: Task,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    parity: float,
    train_metrics: Mapping[str, float],
    validation_metrics: Mapping[str, float],
    champion_scores: np.ndarray | None = None,
    exact_scores: np.ndarray | None = None,
) -> GateReport:
    """Judge a candidate by its scores on held-out rows; ``champion_scores`` are the champion's on the same rows.

    ``exact_scores`` are those of the model before its weights were quantised, when they were.
    A metric that is not a number fails its check. Raises ProjectError for a metric that the task does not have.
    """
    checks = [
        *(check for threshold in policy.thresholds for check in _bounds(threshold, task, scores, labels)),
        *_gap(policy, task, train_metrics, validation_metrics),
        _parity(policy, parity),
    ]
    if policy.margin is not None and champion_scores is not None:
        checks.append(_against(policy, policy.margin, task, scores, champion_scores, labels))
    if exact_scores is not None:
        checks.append(_quantized(policy, task, scores, exact_scores, labels))
    return GateReport(checks=tuple(checks))


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
    """Difference of the primary metric with its one-sided percentile bootstrap bound (Efron & Tibshirani 1993, ch. 13).

    Rows are resampled in pairs: both models are scored on the same draw.
    """
    metric = tasks.primary(task)
    sign = 1.0 if metric.direction == "max" else -1.0
    ours, theirs = (tasks.prepare(task, metric.name, scores, labels) for scores in (candidate, champion))
    generator, rows = np.random.default_rng(seed), len(labels)
    draws = np.empty(resamples)
    for i in range(resamples):
        weights = np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)
        draws[i] = sign * (ours(weights) - theirs(weights))
    return Difference(value=sign * (ours(None) - theirs(None)), low=float(np.quantile(draws, alpha)))


def _bounds(threshold: Threshold, task: Task, scores: np.ndarray, labels: np.ndarray) -> Iterator[Check]:
    name = threshold.metric
    value = tasks.prepare(task, name, scores, labels)(None)
    if threshold.min is not None:
        yield _check(name, value, threshold.min, value >= threshold.min, "at least", f"held-out {name}")
    if threshold.max is not None:
        yield _check(name, value, threshold.max, value <= threshold.max, "at most", f"held-out {name}")


def _gap(
    policy: GatePolicy, task: Task, train: Mapping[str, float], validation: Mapping[str, float]
) -> Iterator[Check]:
    if policy.max_gap is None:
        return
    metric = tasks.primary(task)
    sign = 1.0 if metric.direction == "max" else -1.0
    value = sign * (train[metric.name] - validation[metric.name])
    what = f"{metric.name} lost from training to validation rows"
    yield _check("train/validation gap", value, policy.max_gap, value <= policy.max_gap, "at most", what)


def _parity(policy: GatePolicy, parity: float) -> Check:
    passed = parity <= policy.max_parity
    return _check(
        "export parity", parity, policy.max_parity, passed, "at most", "difference of the exported model's scores"
    )


def _against(
    policy: GatePolicy, margin: float, task: Task, scores: np.ndarray, champion: np.ndarray, labels: np.ndarray
) -> Check:
    found = paired_difference(
        task, scores, champion, labels, alpha=policy.alpha, resamples=policy.resamples, seed=policy.seed
    )
    what = f"{tasks.primary(task).name} against the champion {found.value:+.4f}, lower bound"
    return _check("not worse than the champion", found.low, -margin, found.low >= -margin, "at least", what)


def _quantized(policy: GatePolicy, task: Task, scores: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> Check:
    found = paired_difference(
        task, scores, exact, labels, alpha=policy.alpha, resamples=policy.resamples, seed=policy.seed
    )
    metric = tasks.primary(task).name
    allowed = policy.max_quantization_loss * abs(tasks.prepare(task, metric, exact, labels)(None))
    what = f"{metric} against the same model before quantisation {found.value:+.4g}, lower bound"
    return _check("int8 as good as float", found.low, -allowed, found.low >= -allowed, "at least", what)


def _check(name: str, value: float, limit: float, passed: bool, relation: str, what: str) -> Check:
    outcome = "" if passed else "not "
    return Check(
        name=name,
        value=value,
        limit=limit,
        passed=bool(passed),
        reason=f"{what} {value:.4g} is {outcome}{relation} {limit:.4g}",
    )
