"""Is one feature nearly the label? Then it is probably not known when the prediction is made.

A feature's skill alone: the mean label of each of its values, learned on every other row, predicts the rows between. Skill is
0 for a constant and 1 for the label itself: 2 AUC - 1 of a binary label (Somers' D), the same as a mean over classes one against
the rest, R2 of a number.
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


class Alone(Frozen):
    """What one feature predicts without the others."""

    feature: str
    skill: float


def skills(task: Task, inputs: InputSpec, arrays: Arrays, labels: np.ndarray) -> tuple[Alone, ...]:
    """Each number's and category's skill alone, the largest first. Tensors are not looked at."""
    found = [Alone(feature=name, skill=_skill(task, codes, labels)) for name, codes in _columns(inputs, arrays)]
    return tuple(sorted(found, key=lambda alone: -alone.skill))


def judge(found: tuple[Alone, ...], limit: float | None) -> Iterator[Check]:
    """One check, on the feature with the largest skill."""
    if found:
        what = f"{found[0].feature} (is it known when the prediction is made?) alone has skill"
        yield from check_builders.if_limited("no feature is the label", found[0].skill, limit, what)


def _columns(inputs: InputSpec, arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    for i, name in enumerate(inputs.numbers):
        yield name, _binned(arrays["numbers"][:, i])
    for i, name in enumerate(inputs.categories):
        yield name, arrays["codes"][:, i]


def _binned(values: np.ndarray) -> np.ndarray:
    """Bins of about equal numbers of rows; missing is a bin of its own."""
    known = values[~np.isnan(values)]
    if not len(known):
        return np.full(len(values), _MISSING)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    return np.where(np.isnan(values), _MISSING, np.searchsorted(edges, values))


def _skill(task: Task, codes: np.ndarray, labels: np.ndarray) -> float:
    learn, judged = slice(0, None, 2), slice(1, None, 2)
    size = int(codes.max(initial=0)) + 1
    counts = np.bincount(codes[learn], minlength=size)

    def predicted(target: np.ndarray) -> np.ndarray:
        # One row at the mean of all keeps values that were not seen in the middle.
        sums = np.bincount(codes[learn], target[learn], minlength=size) + target[learn].mean()
        return np.asarray((sums / (counts + 1))[codes[judged]])

    if task.kind == "regression":
        return _known(metrics.prepare(task, "r2", predicted(labels), labels[judged])(None))
    targets = _targets(task, labels)
    aucs = [metrics.auc(predicted(target), target[judged])(None) for target in targets]
    return _known(2 * float(np.nanmean(aucs)) - 1 if not np.isnan(aucs).all() else 0.0)


def _targets(task: Task, labels: np.ndarray) -> list[np.ndarray]:
    """What is to be told from the rest, one at a time, as 0.0 and 1.0."""
    if task.kind == "multilabel":
        return list(labels.T.astype(float))
    classes = (1,) if task.kind == "binary" else tuple(range(task.outputs))
    return [(labels == k).astype(float) for k in classes]


def _known(skill: float) -> float:
    """Labels that are all the same leave nothing to explain."""
    return 0.0 if np.isnan(skill) else max(0.0, skill)
