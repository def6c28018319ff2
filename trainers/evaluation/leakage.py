"""Target leakage: a feature that is nearly the label is probably not known at prediction time.

Skill of a single feature: the mean label of each of its values, learned on every other row, predicts the rows in
between. Skill is 0 for a constant and 1 for the label itself: 2 AUC - 1 of a binary label (Somers' D), its mean over
classes one against the rest, R2 of a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.values import Check, Frozen, Task
from features.encoder import Arrays
from trainers import metrics
from trainers.evaluation import check_builders
from trainers.input_spec import InputSpec

BINS = 30
_MISSING = BINS


class SingleFeatureSkill(Frozen):
    """How well one feature predicts the label without the others, from 0 to 1."""

    feature: str
    skill: float


def single_feature_skills(
    task: Task, inputs: InputSpec, arrays: Arrays, labels: np.ndarray
) -> tuple[SingleFeatureSkill, ...]:
    """Skill of each number and category by itself, the largest first. Tensors are left out."""
    skills = [SingleFeatureSkill(feature=n, skill=_skill(task, codes, labels)) for n, codes in _columns(inputs, arrays)]
    return tuple(sorted(skills, key=lambda feature: -feature.skill))


def check(skills: tuple[SingleFeatureSkill, ...], limit: float | None) -> Iterator[Check]:
    """One check, on the feature with the largest skill."""
    if skills:
        what = f"skill of {skills[0].feature} alone (is it known when the prediction is made?)"
        yield from check_builders.at_most("no feature is the label", skills[0].skill, limit, what)


def _columns(inputs: InputSpec, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    for i, name in enumerate(inputs.numbers):
        yield name, _bin(arrays["numbers"][:, i])
    for i, name in enumerate(inputs.categories):
        yield name, arrays["codes"][:, i]


def _bin(values: np.ndarray) -> np.ndarray:
    """Bins with about equal numbers of rows; missing values have their own bin."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.full(len(values), _MISSING)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    return np.where(np.isnan(values), _MISSING, np.searchsorted(edges, values))


def _skill(task: Task, codes: np.ndarray, labels: np.ndarray) -> float:
    learn, test = slice(0, None, 2), slice(1, None, 2)
    size = int(codes.max(initial=0)) + 1
    counts = np.bincount(codes[learn], minlength=size)

    def predict(target: np.ndarray) -> np.ndarray:
        # One pseudo-row with the overall mean: values without a row to learn from get that mean.
        sums = np.bincount(codes[learn], target[learn], minlength=size) + target[learn].mean()
        return np.asarray((sums / (counts + 1))[codes[test]])

    if task.kind == "regression":
        return _skill_or_zero(metrics.prepare(task, "r2", predict(labels), labels[test])(None))
    aucs = [metrics.auc(predict(target), target[test])(None) for target in _targets(task, labels)]
    return _skill_or_zero(2 * float(np.nanmean(aucs)) - 1 if not np.isnan(aucs).all() else 0.0)


def _targets(task: Task, labels: np.ndarray) -> list[np.ndarray]:
    """Each class against the rest as 0.0 and 1.0."""
    if task.kind == "multilabel":
        return list(labels.T.astype(float))
    return [(labels == k).astype(float) for k in ((1,) if task.kind == "binary" else range(task.outputs))]


def _skill_or_zero(skill: float) -> float:
    """Skill of 0 where it is undefined, because all labels are the same, or negative."""
    return 0.0 if np.isnan(skill) else max(0.0, skill)
