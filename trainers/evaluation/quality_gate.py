"""The gate between a trained model and the registry: what the project asks for, and the checks that scores alone decide.

What else is looked at is in assessment.py and the modules it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import Field

from cluster.values import Check, Frozen, GateReport, Task
from trainers import metrics
from trainers.evaluation import check_builders
from trainers.evaluation.bootstrap import paired_difference
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.evaluation.serving_budget import Budget
from trainers.evaluation.slices import SlicePolicy

INT8 = "int8"


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
    ``max_compression_loss``: the same of a model that was pruned or distilled, against the one it was made of.
    ``max_alone``: no feature alone may have more skill than this (leakage.py: 1 is the label itself). None: any.
    ``max_calibration_loss``: a fitted temperature may add this much to the calibration error of the held-out rows.
    ``slices``, ``fairness``, ``robustness`` and ``budget`` are policies of their own; none has a limit unless it is declared.
    """

    thresholds: tuple[Threshold, ...] = ()
    margin: float | None = Field(default=None, ge=0)
    max_gap: float | None = Field(default=None, ge=0)
    max_parity: float = Field(default=1e-4, gt=0)
    max_quantization_loss: float = Field(default=0.005, ge=0)
    max_compression_loss: float = Field(default=0.005, ge=0)
    max_alone: float | None = Field(default=0.95, ge=0)
    max_calibration_loss: float = Field(default=0.01, ge=0)
    slices: SlicePolicy = SlicePolicy()
    fairness: FairnessPolicy = FairnessPolicy()
    robustness: RobustnessPolicy = RobustnessPolicy()
    budget: Budget = Budget()
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    resamples: int = Field(default=500, ge=100)
    seed: int = Field(default=0, ge=0)


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
    compression: str = INT8,
) -> GateReport:
    """Judge a candidate by its scores on held-out rows; ``champion_scores`` are the champion's on the same rows.

    ``exact_scores`` are those of the model before its weights were quantised, or before it was made smaller, when it was;
    ``compression`` says how.
    A metric that is not a number fails its check. Raises ProjectError for a metric that the task does not have.
    """
    found = [
        *(check for threshold in policy.thresholds for check in _bounds(threshold, task, scores, labels)),
        *_gap(policy, task, train_metrics, validation_metrics),
        check_builders.at_most("export parity", parity, policy.max_parity, "difference of the exported model's scores"),
    ]
    if policy.margin is not None and champion_scores is not None:
        found.append(_against(policy, policy.margin, task, scores, champion_scores, labels))
    if exact_scores is not None:
        found.append(_compressed(policy, task, scores, exact_scores, labels, compression))
    return GateReport(checks=tuple(found))


def _bounds(threshold: Threshold, task: Task, scores: np.ndarray, labels: np.ndarray) -> Iterator[Check]:
    name = threshold.metric
    value = metrics.prepare(task, name, scores, labels)(None)
    if threshold.min is not None:
        yield check_builders.at_least(name, value, threshold.min, f"held-out {name}")
    if threshold.max is not None:
        yield check_builders.at_most(name, value, threshold.max, f"held-out {name}")


def _gap(
    policy: GatePolicy, task: Task, train: Mapping[str, float], validation: Mapping[str, float]
) -> Iterator[Check]:
    if policy.max_gap is None:
        return
    metric = metrics.primary(task)
    sign = 1.0 if metric.direction == "max" else -1.0
    value = sign * (train[metric.name] - validation[metric.name])
    what = f"{metric.name} lost from training to validation rows"
    yield check_builders.at_most("train/validation gap", value, policy.max_gap, what)


def _against(
    policy: GatePolicy, margin: float, task: Task, scores: np.ndarray, champion: np.ndarray, labels: np.ndarray
) -> Check:
    found = paired_difference(
        task, scores, champion, labels, alpha=policy.alpha, resamples=policy.resamples, seed=policy.seed
    )
    what = f"{metrics.primary(task).name} against the champion {found.value:+.4f}, lower bound"
    return check_builders.at_least("not worse than the champion", found.low, -margin, what)


def _compressed(
    policy: GatePolicy, task: Task, scores: np.ndarray, exact: np.ndarray, labels: np.ndarray, compression: str
) -> Check:
    found = paired_difference(
        task, scores, exact, labels, alpha=policy.alpha, resamples=policy.resamples, seed=policy.seed
    )
    quantized = compression == INT8
    share = policy.max_quantization_loss if quantized else policy.max_compression_loss
    metric = metrics.primary(task).name
    allowed = share * abs(metrics.prepare(task, metric, exact, labels)(None))
    before = "quantisation" if quantized else "compression"
    what = f"{metric} against the same model before {before} {found.value:+.4g}, lower bound"
    return check_builders.at_least(
        f"{compression} as good as {'float' if quantized else 'whole'}", found.low, -allowed, what
    )
