"""What there is to know of a candidate beyond its scores as a whole, and the checks that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.row_losses import row_loss
from cluster.values import Check, Frozen, Task
from features.encoder import Arrays
from trainers.evaluation import bootstrap, calibration, explanations, fairness, leakage, robustness, slices
from trainers.evaluation.bootstrap import Interval
from trainers.evaluation.calibration import Calibrated
from trainers.evaluation.explanations import Attribution, Importance
from trainers.evaluation.fairness import Groups
from trainers.evaluation.leakage import Alone
from trainers.evaluation.quality_gate import GatePolicy
from trainers.evaluation.robustness import Spoilt
from trainers.evaluation.slices import Measured, Slice, SlicePolicy
from trainers.input_spec import InputSpec

Score = Callable[[Arrays], np.ndarray]

INTERVAL_RESAMPLES = 200
IMPORTANCE_ROWS = 3_000
IMPORTANCE_REPEATS = 2
BACKGROUND_ROWS = 100
SHAPLEY_ORDERS = 25
VALUE_LETTERS = 40


class Part(NamedTuple):
    """Rows of the frame: as they are, encoded, their labels, and the exported model's scores."""

    table: pa.Table
    arrays: Arrays
    labels: np.ndarray
    scores: np.ndarray


class Evidence(NamedTuple):
    """What a candidate is assessed by. ``score`` is the exported model; ``temperature`` is the one in it (1: none).

    ``champion_scores`` are the champion's on the test rows. ``train`` may be a sample.
    """

    task: Task
    inputs: InputSpec
    score: Score
    train: Part
    validation: Part
    test: Part
    temperature: float = 1.0
    champion_scores: np.ndarray | None = None


class Assessment(Frozen):
    """What was found on the held-out rows. ``slices`` are the declared ones, ``found`` those that the search proposed."""

    metrics: dict[str, Interval]
    slices: tuple[Measured, ...]
    found: tuple[Measured, ...]
    fairness: tuple[Groups, ...]
    calibration: Calibrated | None
    robustness: tuple[Spoilt, ...]
    alone: tuple[Alone, ...]
    importance: tuple[Importance, ...]
    attributions: tuple[Attribution, ...]


def assess(policy: GatePolicy, given: Evidence) -> Assessment:
    """Look at everything. Raises ProjectError for a declared column that the frame has not."""
    task, test = given.task, given.test
    declared, found = _slices(policy, given)
    return Assessment(
        metrics=bootstrap.intervals(
            task, test.scores, test.labels, alpha=policy.alpha, resamples=INTERVAL_RESAMPLES, seed=policy.seed
        ),
        slices=declared,
        found=found,
        fairness=fairness.measure(policy.fairness, task, test.table, test.scores, test.labels),
        calibration=_calibration(given),
        robustness=robustness.measure(
            policy.robustness, task, given.inputs, given.score, test.arrays, test.labels, policy.seed
        ),
        alone=leakage.skills(task, given.inputs, given.train.arrays, given.train.labels),
        importance=_importance(policy, given),
        attributions=_attributions(policy, given),
    )


def judge(policy: GatePolicy, task: Task, found: Assessment) -> tuple[Check, ...]:
    """The checks, as far as limits are declared."""
    return (
        *slices.judge(policy.slices, (*found.slices, *found.found)),
        *fairness.judge(policy.fairness, found.fairness),
        *calibration.judge(found.calibration, policy.max_calibration_loss),
        *robustness.judge(found.robustness, task, policy.robustness.max_loss),
        *leakage.judge(found.alone, policy.max_alone),
    )


def _slices(policy: GatePolicy, given: Evidence) -> tuple[tuple[Measured, ...], tuple[Measured, ...]]:
    """The declared slices, and those that validation rows propose; both measured on test rows."""
    rules, test = policy.slices, given.test.table
    losses, champion = _losses(given.task, given.test), None
    if given.champion_scores is not None:
        champion = row_loss(given.task, given.champion_scores, given.test.labels)
    declared = [
        slices.measure(rules, slices.of_column(cut), test, losses, champion, name)
        for name, cut in slices.cuts_of(rules, test, rules.columns).items()
    ]
    found = slices.measure(rules, _proposed(rules, given), test, losses, champion) if rules.search else ()
    return tuple(itertools.chain.from_iterable(declared)), found


def _proposed(rules: SlicePolicy, given: Evidence) -> tuple[Slice, ...]:
    past = given.validation
    cuts = slices.cuts_of(rules, past.table, (*given.inputs.numbers, *given.inputs.categories))
    return slices.propose(rules, cuts, past.table, _losses(given.task, past))


def _losses(task: Task, part: Part) -> np.ndarray:
    return row_loss(task, part.scores, part.labels)


def _calibration(given: Evidence) -> Calibrated | None:
    """Of a model without a temperature: what the best one would do."""
    task, applied = given.task, given.temperature != 1.0
    if task.kind == "regression":
        return None
    raw = calibration.tempered(task, given.test.scores, 1 / given.temperature) if applied else given.test.scores
    temperature = (
        given.temperature
        if applied
        else calibration.fit_temperature(task, given.validation.scores, given.validation.labels)
    )
    return calibration.measure(task, raw, given.test.labels, temperature, applied)


def _importance(policy: GatePolicy, given: Evidence) -> tuple[Importance, ...]:
    step = max(1, len(given.test.labels) // IMPORTANCE_ROWS)
    arrays = {name: values[::step] for name, values in given.test.arrays.items()}
    labels = given.test.labels[::step]
    return explanations.permutation(
        given.task, given.inputs, given.score, arrays, labels, repeats=IMPORTANCE_REPEATS, seed=policy.seed
    )


def _attributions(policy: GatePolicy, given: Evidence) -> tuple[Attribution, ...]:
    """Of the rows with the highest, the middle and the lowest score (multiclass: of the likeliest class)."""
    scores = given.test.scores
    order = np.argsort(scores if scores.ndim == 1 else scores.max(axis=1), kind="stable")
    chosen = {"highest score": order[-1], "middle score": order[len(order) // 2], "lowest score": order[0]}
    return tuple(_attribution(policy, given, name, int(at)) for name, at in chosen.items())


def _attribution(policy: GatePolicy, given: Evidence, name: str, at: int) -> Attribution:
    task, test = given.task, given.test
    explained = int(test.scores[at].argmax()) if task.wide else 0
    row = {array: values[at : at + 1] for array, values in test.arrays.items()}
    step = max(1, len(test.labels) // BACKGROUND_ROWS)
    background = {array: values[::step] for array, values in test.arrays.items()}

    def one(arrays: Arrays) -> np.ndarray:
        scores = given.score(arrays)
        return scores[:, explained] if scores.ndim > 1 else scores

    base, parts = explanations.shapley(given.inputs, one, row, background, orders=SHAPLEY_ORDERS, seed=policy.seed)
    label = task.classes[explained] if task.wide else task.label
    values = {feature: _told(test.table[feature][at].as_py()) for feature in parts}
    return Attribution(row=name, output=label, base=base, score=base + sum(parts.values()), parts=parts, values=values)


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:VALUE_LETTERS]
