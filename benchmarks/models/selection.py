"""What the intervals of a selected model are worth: whether they have its figure on fresh rows.

A search is a race over generated rows with the selection that ``ModelSpec(build="auto")`` makes, by fast models of
scikit-learn. Tables differ in their number of columns, noise and rule. What is measured:

- the interval of the held-out rows, which decided nothing; the model card has it for every metric;
- the interval of the validation rows that chose, corrected for the choice, against the same rows without correction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from benchmarks.results import Row, Target, row
from cluster.row_losses import row_loss
from cluster.values import Task
from trainers import metrics
from trainers.evaluation.bootstrap import Interval, confidence_intervals
from trainers.selection.ensemble import ALPHA, RESAMPLES, combine, corrected_losses, select
from trainers.selection.race import Race, rung_rows

SEARCHES, FEW_SEARCHES = 200, 20
TRAIN_ROWS, CHOOSING_ROWS, TEST_ROWS, FRESH_ROWS = 3_000, 300, 500, 20_000
MEMBERS = 4
BUDGET_S = 60.0
"""Of the simulated clock, on which a training takes a second for each thousand rows."""
TASK = Task(kind="binary", label="positive")
TARGET = Target(of="value", sign="≥", limit=0.93)
WORK = "the interval of a selected model has its figure on fresh rows"
LOSS = "log_loss"


class Covered(NamedTuple):
    """Of one search, whether an interval has the figure of the fresh rows."""

    held_out: dict[str, bool]
    """By metric."""
    corrected: bool
    plain: bool
    gap: float
    """Log loss of the fresh rows less that of the rows that chose."""
    left: float
    """The same, after the correction."""


class Rows(NamedTuple):
    """Generated rows."""

    columns: np.ndarray
    labels: np.ndarray


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Count the searches whose intervals have the figure."""
    count = FEW_SEARCHES if small else SEARCHES
    searches = list[Covered]()
    for seed in range(count):
        searches.append(search(seed))
        if (seed + 1) % 10 == 0:
            progress(f"{seed + 1} of {count} searches")
    primary = metrics.primary_metric(TASK).name
    unit = f"share of {count} searches"
    for name in (primary, LOSS):
        yield row(
            WORK,
            unit,
            float(np.mean([each.held_out[name] for each in searches])),
            target=TARGET,
            note=f"{name} of {TEST_ROWS} held-out rows, which decided nothing: the interval on the model card",
        )
    gap, left = (np.mean([getattr(each, name) for each in searches]) for name in ("gap", "left"))
    yield row(
        WORK,
        unit,
        float(np.mean([each.corrected for each in searches])),
        "a bootstrap of the same rows without repeated selection",
        float(np.mean([each.plain for each in searches])),
        target=TARGET,
        note=f"{LOSS} of the {CHOOSING_ROWS} validation rows that chose; it is {gap:.3f} too low, {left:+.3f} after "
        "the correction",
    )


def search(seed: int) -> Covered:
    """Race, select and measure on one generated table."""
    rng = np.random.default_rng(seed)
    draw = _table(rng)
    train, choosing, test, fresh = (draw(n) for n in (TRAIN_ROWS, CHOOSING_ROWS, TEST_ROWS, FRESH_ROWS))
    models = _race(rng, train, choosing)
    scores = np.stack([_score(model, choosing) for model in models])
    losses = partial(row_loss, TASK, labels=choosing.labels)
    weights = select(scores, losses, MEMBERS)[-1]
    truth = metrics.evaluate(TASK, _mean(models, weights, fresh), fresh.labels)
    held_out = _intervals(_mean(models, weights, test), test.labels, seed)
    corrected = corrected_losses(scores, losses, MEMBERS, seed)[-1]
    chosen = combine(scores, weights)
    plain = _intervals(chosen, choosing.labels, seed)[LOSS]
    return Covered(
        {name: _has(interval, truth[name]) for name, interval in held_out.items()},
        _has(corrected, truth[LOSS]),
        _has(plain, truth[LOSS]),
        truth[LOSS] - plain.value,
        truth[LOSS] - corrected.value,
    )


def _race(rng: np.random.Generator, train: Rows, choosing: Rows) -> list[Any]:
    """Return the models that a race trains, of each candidate the best one."""
    candidates = _candidates(rng)
    race = Race([type(each).__name__ for each in candidates], rung_rows(len(train.labels)), BUDGET_S)
    best, now = dict[int, tuple[float, Any]](), 0.0
    while heat := race.next(now):
        model = clone(candidates[heat.candidate]).fit(train.columns[: heat.rows], train.labels[: heat.rows])
        loss = float(row_loss(TASK, _score(model, choosing), choosing.labels).mean())
        seconds = heat.rows / 1_000
        now += seconds
        race.finish(loss, seconds)
        if heat.candidate not in best or loss <= best[heat.candidate][0]:
            best[heat.candidate] = loss, model
    return [model for _, model in best.values()]


def _candidates(rng: np.random.Generator) -> list[Any]:
    drawn = list[Any]()
    for _ in range(8):
        drawn += [
            DecisionTreeClassifier(
                max_depth=int(rng.integers(2, 9)), min_samples_leaf=int(rng.integers(10, 60)), max_features=0.7,
                random_state=int(rng.integers(1_000)),
            ),
            QuadraticDiscriminantAnalysis(reg_param=float(rng.uniform(0, 0.9))),
            LogisticRegression(C=float(10 ** rng.uniform(-3, 1))),
            GaussianNB(var_smoothing=float(10 ** rng.uniform(-3, 0))),
        ]  # fmt: skip
    return drawn


def _table(rng: np.random.Generator) -> Callable[[int], Rows]:
    """Return a source of rows of one table: a linear rule with interactions of some of its columns, and noise."""
    width = int(rng.integers(4, 16))
    linear, pairs = rng.normal(size=width) * (rng.random(width) < 0.5), rng.normal(size=(width, width)) / width
    scale = float(rng.uniform(0.3, 2.0))

    def draw(count: int) -> Rows:
        columns = rng.normal(size=(count, width))
        logits = scale * (columns @ linear + np.einsum("ni,ij,nj->n", columns, pairs, columns) - 0.3)
        return Rows(columns, (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float64))

    return draw


def _score(model: Any, rows: Rows) -> np.ndarray:
    return np.asarray(model.predict_proba(rows.columns)[:, 1])


def _mean(models: list[Any], weights: np.ndarray, rows: Rows) -> np.ndarray:
    used = np.flatnonzero(weights)
    return np.asarray(sum(weights[i] * _score(models[i], rows) for i in used))


def _intervals(scores: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Interval]:
    return confidence_intervals(TASK, scores, labels, alpha=ALPHA, resamples=RESAMPLES, seed=seed)


def _has(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high
