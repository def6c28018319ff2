"""The full assessment of a candidate beyond its overall metrics, and the gate checks that follow from it."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.row_losses import row_loss
from cluster.values import Check, Frozen, Task
from features.attributions.contributions import feature_locations
from features.attributions.sampled_shapley import SampledExplainer, ScoreFunction
from features.encoder import Arrays
from trainers.evaluation import (
    bootstrap,
    calibration,
    explanations,
    fairness,
    feature_effects,
    leakage,
    robustness,
    slices,
)
from trainers.evaluation.bootstrap import Interval
from trainers.evaluation.calibration import CalibrationResult
from trainers.evaluation.explanations import Attribution, Importance
from trainers.evaluation.fairness import GroupComparison, MitigationResult
from trainers.evaluation.feature_effects import FeatureEffect
from trainers.evaluation.leakage import SingleFeatureSkill
from trainers.evaluation.quality_gate import GatePolicy
from trainers.evaluation.robustness import PerturbationResult
from trainers.evaluation.slices import Slice, SlicePolicy, SliceResult
from trainers.input_spec import InputSpec

INTERVAL_RESAMPLES = 200
IMPORTANCE_ROWS = 3_000
IMPORTANCE_REPEATS = 2
EFFECT_FEATURES = 6
"""Most important features whose effects the card shows."""
BACKGROUND_ROWS = 100
MAX_VALUE_LENGTH = 40


class ScoredSplit(NamedTuple):
    """Rows of one split of the frame: as they are, encoded, their labels, and the exported model's scores."""

    table: pa.Table
    arrays: Arrays
    labels: np.ndarray
    scores: np.ndarray


class CandidateEvidence(NamedTuple):
    """The model and the rows that a candidate is assessed on.

    Attributes:
        task: The candidate's task.
        inputs: The candidate's inputs.
        score: The exported model.
        train: Training rows; a sample will do. Their scores are not used.
        validation: Validation rows.
        test: Held-out rows.
        temperature: The temperature that the exported model contains; 1 without one.
        champion_scores: The champion's scores of the test rows; None without a champion.
    """

    task: Task
    inputs: InputSpec
    score: ScoreFunction
    train: ScoredSplit
    validation: ScoredSplit
    test: ScoredSplit
    temperature: float = 1.0
    champion_scores: np.ndarray | None = None


class Assessment(Frozen, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True):
    """Results on the held-out rows. ``slices`` are the declared ones, ``discovered_slices`` those found by search."""

    metrics: dict[str, Interval]
    slices: tuple[SliceResult, ...]
    # Cards have stored these as "found" and "alone" from the first version on.
    discovered_slices: tuple[SliceResult, ...] = Field(validation_alias="found", serialization_alias="found")
    fairness: tuple[GroupComparison, ...]
    calibration: CalibrationResult | None
    robustness: tuple[PerturbationResult, ...]
    single_feature_skills: tuple[SingleFeatureSkill, ...] = Field(validation_alias="alone", serialization_alias="alone")
    importance: tuple[Importance, ...]
    attributions: tuple[Attribution, ...]
    effects: tuple[FeatureEffect, ...] = ()
    """Of the most important features; none of tasks with several scores, and none before 0.3."""
    mitigation: MitigationResult | None = None
    """What was done about differences between groups; None: nothing."""


def assess(policy: GatePolicy, evidence: CandidateEvidence) -> Assessment:
    """Run every check and measurement on a candidate.

    Raises:
        ProjectError: The frame does not have a column that the policy names.
    """
    task, inputs, test = evidence.task, evidence.inputs, evidence.test
    declared, discovered = _slices(policy.slices, evidence)
    importance = _importance(policy, evidence)
    return Assessment(
        metrics=bootstrap.confidence_intervals(
            task, test.scores, test.labels, alpha=policy.alpha, resamples=INTERVAL_RESAMPLES, seed=policy.seed
        ),
        slices=declared,
        discovered_slices=discovered,
        fairness=fairness.measure(policy.fairness, task, test.table, test.scores, test.labels),
        calibration=_calibration(evidence),
        robustness=robustness.measure(
            policy.robustness, task, inputs, evidence.score, test.arrays, test.labels, policy.seed
        ),
        single_feature_skills=leakage.single_feature_skills(task, inputs, evidence.train.arrays, evidence.train.labels),
        importance=importance,
        attributions=_attributions(policy, evidence),
        effects=_effects(evidence, importance),
    )


def check(policy: GatePolicy, task: Task, assessment: Assessment) -> tuple[Check, ...]:
    """Check an assessment against the limits that the policy declares."""
    return (
        *slices.check(policy.slices, (*assessment.slices, *assessment.discovered_slices)),
        *fairness.check(policy.fairness, assessment.fairness),
        *calibration.check(assessment.calibration, policy.max_calibration_loss),
        *robustness.check(assessment.robustness, task, policy.robustness.max_loss),
        *leakage.check(assessment.single_feature_skills, policy.max_alone),
    )


def _slices(
    policy: SlicePolicy, evidence: CandidateEvidence
) -> tuple[tuple[SliceResult, ...], tuple[SliceResult, ...]]:
    """The declared slices, and those that validation rows propose; both measured on test rows."""
    test, losses, champion = evidence.test.table, _losses(evidence.task, evidence.test), None
    if evidence.champion_scores is not None:
        champion = row_loss(evidence.task, evidence.champion_scores, evidence.test.labels)
    declared = [
        slices.measure(policy, slices.column_slices(binning), test, losses, champion, name)
        for name, binning in slices.fit_binnings(policy, test, policy.columns).items()
    ]
    proposals = _proposals(policy, evidence) if policy.search else ()
    return tuple(itertools.chain.from_iterable(declared)), slices.measure(policy, proposals, test, losses, champion)


def _proposals(policy: SlicePolicy, evidence: CandidateEvidence) -> tuple[Slice, ...]:
    validation = evidence.validation
    columns = (*evidence.inputs.numbers, *evidence.inputs.categories)
    binnings = slices.fit_binnings(policy, validation.table, columns)
    return slices.propose(policy, binnings, validation.table, _losses(evidence.task, validation))


def _losses(task: Task, split: ScoredSplit) -> np.ndarray:
    return row_loss(task, split.scores, split.labels)


def _calibration(evidence: CandidateEvidence) -> CalibrationResult | None:
    """For a model without a temperature: the effect of the best one."""
    task, test, validation = evidence.task, evidence.test, evidence.validation
    if task.kind == "regression":
        return None
    if evidence.temperature != 1.0:
        raw = calibration.apply_temperature(task, test.scores, 1 / evidence.temperature)
        return calibration.measure(task, raw, test.labels, evidence.temperature, applied=True)
    temperature = calibration.fit_temperature(task, validation.scores, validation.labels)
    return calibration.measure(task, test.scores, test.labels, temperature, applied=False)


def _importance(policy: GatePolicy, evidence: CandidateEvidence) -> tuple[Importance, ...]:
    step = max(1, len(evidence.test.labels) // IMPORTANCE_ROWS)
    arrays = {name: values[::step] for name, values in evidence.test.arrays.items()}
    labels = evidence.test.labels[::step]
    return explanations.permutation_importance(
        evidence.task, evidence.inputs, evidence.score, arrays, labels, repeats=IMPORTANCE_REPEATS, seed=policy.seed
    )


def _effects(evidence: CandidateEvidence, importance: tuple[Importance, ...]) -> tuple[FeatureEffect, ...]:
    if evidence.task.wide:
        return ()
    step = max(1, len(evidence.test.labels) // IMPORTANCE_ROWS)
    arrays = {name: values[::step] for name, values in evidence.test.arrays.items()}
    table = evidence.test.table.take(np.arange(0, len(evidence.test.labels), step))
    names = [each.feature for each in importance[:EFFECT_FEATURES]]
    return feature_effects.measure_effects(evidence.inputs, evidence.score, table, arrays, names)


def _attributions(policy: GatePolicy, evidence: CandidateEvidence) -> tuple[Attribution, ...]:
    """Of the rows with the highest, the middle and the lowest score (multiclass: of the likeliest class)."""
    test, locations = evidence.test, feature_locations(evidence.inputs)
    rows = np.random.default_rng(policy.seed).permutation(len(test.labels))[:BACKGROUND_ROWS]
    background = {name: values[rows] for name, values in test.arrays.items()}
    explainer = SampledExplainer(evidence.score, background, locations, policy.seed)
    order = np.argsort(test.scores if test.scores.ndim == 1 else test.scores.max(axis=1), kind="stable")
    chosen = {"highest score": order[-1], "middle score": order[len(order) // 2], "lowest score": order[0]}
    return tuple(_attribution(evidence, explainer, name, int(at)) for name, at in chosen.items())


def _attribution(evidence: CandidateEvidence, explainer: SampledExplainer, name: str, at: int) -> Attribution:
    task, test = evidence.task, evidence.test
    output = int(test.scores[at].argmax()) if task.wide else 0
    contributions = explainer.explain({array: values[at : at + 1] for array, values in test.arrays.items()}, output)
    parts = dict(zip(feature_locations(evidence.inputs), contributions.parts.tolist(), strict=True))
    label = task.classes[output] if task.wide else task.label
    values = {feature: _format_value(test.table[feature][at].as_py()) for feature in parts}
    base, score = contributions.base, contributions.total
    return Attribution(row=name, output=label, base=base, score=score, parts=parts, values=values)


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:MAX_VALUE_LENGTH]
