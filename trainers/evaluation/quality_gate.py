"""The quality gate between a trained model and the registry: the project's limits, and the checks on scores alone.

assessment.py and its neighbors check everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from pydantic import Field

from cluster.values import Check, Frozen, GateReport, Task
from trainers import metrics
from trainers.evaluation import check_builders
from trainers.evaluation.bootstrap import PairedDifference, paired_difference
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.evaluation.serving_budget import Budget
from trainers.evaluation.slices import SlicePolicy

INT8 = "int8"


class Threshold(Frozen):
    """Bounds of a metric on the held-out rows, both inclusive."""

    metric: str
    """A metric of the task."""
    min: float | None = None
    """Lower bound; None is no bound."""
    max: float | None = None
    """Upper bound; None is no bound."""


class GatePolicy(Frozen):
    """What a candidate must achieve to be registered."""

    thresholds: tuple[Threshold, ...] = ()
    """Bounds of metrics on the held-out rows."""
    margin: float | None = Field(default=None, ge=0)
    """How much worse than the champion's the primary metric may be on the same rows, by the lower bound of a paired
    bootstrap. None skips the comparison."""
    max_gap: float | None = Field(default=None, ge=0)
    """How much worse the primary metric may be on validation rows than on training rows. None is no limit."""
    max_parity: float = Field(default=1e-4, gt=0)
    """Largest difference between the exported model's scores and those of the trained model."""
    max_quantization_loss: float = Field(default=0.005, ge=0)
    """Share of the primary metric that int8 weights may cost, by the same kind of bound as ``margin``."""
    max_compression_loss: float = Field(default=0.005, ge=0)
    """Share of the primary metric that pruning or distillation may cost, by the same kind of bound as ``margin``."""
    max_alone: float | None = Field(default=0.95, ge=0)
    """Largest skill of a single feature (leakage.py); 1 is the label itself. None is no limit."""
    max_calibration_loss: float = Field(default=0.01, ge=0)
    """How much a fitted temperature may add to the calibration error of the held-out rows."""
    slices: SlicePolicy = SlicePolicy()
    """Slices of the held-out rows; no limit by default."""
    fairness: FairnessPolicy = FairnessPolicy()
    """Groups of the held-out rows; none by default."""
    robustness: RobustnessPolicy = RobustnessPolicy()
    """Perturbed inputs; no limit by default."""
    budget: Budget = Budget()
    """Latency and size; no limit by default."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided error of each bound."""
    resamples: int = Field(default=500, ge=100)
    """Bootstrap samples of each bound."""
    seed: int = Field(default=0, ge=0)
    """Seed of the bootstrap, the search for slices and the perturbations."""


class ScoredCandidate(NamedTuple):
    """A candidate's scores on the held-out rows and its metrics from training.

    Attributes:
        task: The candidate's task.
        scores: Scores of the exported model.
        labels: Labels of the same rows.
        parity: Largest difference between the exported model's scores and those of the trained model.
        train_metrics: Metrics of the training rows.
        validation_metrics: Metrics of the validation rows.
        champion_scores: The champion's scores of the same rows; None without a champion.
        original_scores: Scores of the model before quantization or compression; None without either.
        compression: "int8", or a description of the compression.
        is_exported: Whether the model was exported; else ``parity`` is between a row's score alone and among others.
    """

    task: Task
    scores: np.ndarray
    labels: np.ndarray
    parity: float
    train_metrics: Mapping[str, float]
    validation_metrics: Mapping[str, float]
    champion_scores: np.ndarray | None = None
    original_scores: np.ndarray | None = None
    compression: str = INT8
    is_exported: bool = True


def check_candidate(policy: GatePolicy, candidate: ScoredCandidate) -> GateReport:
    """Check a candidate by its scores on the held-out rows.

    Args:
        policy: The limits.
        candidate: The candidate. A metric that is NaN fails its check.

    Raises:
        ProjectError: A threshold names a metric that the task does not have.
    """
    checks = [
        *(check for threshold in policy.thresholds for check in _thresholds(threshold, candidate)),
        *_gap(policy, candidate),
        *_parity(policy, candidate),
        *_against_champion(policy, candidate),
        *_against_original(policy, candidate),
    ]
    return GateReport(checks=tuple(checks))


def _thresholds(threshold: Threshold, candidate: ScoredCandidate) -> Iterator[Check]:
    name = threshold.metric
    value = metrics.prepare(candidate.task, name, candidate.scores, candidate.labels)(None)
    yield from check_builders.at_least(name, value, threshold.min, f"held-out {name}")
    yield from check_builders.at_most(name, value, threshold.max, f"held-out {name}")


def _parity(policy: GatePolicy, candidate: ScoredCandidate) -> Iterator[Check]:
    name, what = "export parity", "difference of the exported model's scores"
    if not candidate.is_exported:
        name, what = "batch parity", "difference between a row's score alone and among other rows"
    yield from check_builders.at_most(name, candidate.parity, policy.max_parity, what)


def _gap(policy: GatePolicy, candidate: ScoredCandidate) -> Iterator[Check]:
    if policy.max_gap is None:
        return
    metric = metrics.primary_metric(candidate.task)
    value = metric.sign * (candidate.train_metrics[metric.name] - candidate.validation_metrics[metric.name])
    what = f"loss of {metric.name} from training to validation rows"
    yield from check_builders.at_most("train/validation gap", value, policy.max_gap, what)


def _against_champion(policy: GatePolicy, candidate: ScoredCandidate) -> Iterator[Check]:
    if policy.margin is None or candidate.champion_scores is None:
        return
    difference = _difference(policy, candidate, candidate.champion_scores)
    metric = metrics.primary_metric(candidate.task).name
    what = f"lower bound of the difference in {metric} from the champion ({difference.value:+.4f})"
    yield from check_builders.at_least("not worse than the champion", difference.low, -policy.margin, what)


def _against_original(policy: GatePolicy, candidate: ScoredCandidate) -> Iterator[Check]:
    if (original := candidate.original_scores) is None:
        return
    difference = _difference(policy, candidate, original)
    quantized = candidate.compression == INT8
    share = policy.max_quantization_loss if quantized else policy.max_compression_loss
    metric = metrics.primary_metric(candidate.task).name
    allowed = share * abs(metrics.prepare(candidate.task, metric, original, candidate.labels)(None))
    step = "quantization" if quantized else "compression"
    what = f"lower bound of the difference in {metric} from the same model before {step} ({difference.value:+.4g})"
    name = f"{candidate.compression} as good as {'float' if quantized else 'whole'}"
    yield from check_builders.at_least(name, difference.low, -allowed, what)


def _difference(policy: GatePolicy, candidate: ScoredCandidate, reference: np.ndarray) -> PairedDifference:
    bootstrap = policy.model_dump(include={"alpha", "resamples", "seed"})
    return paired_difference(candidate.task, candidate.scores, reference, candidate.labels, **bootstrap)
