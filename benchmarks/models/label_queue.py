"""Labels until a loss is reached: rows that the label queue would choose, beside rows at random, with equal budgets.

Each seed divides a table into rows to label, rows to start from, 100 held-out rows from which the monitor learns how
well scores are calibrated, and test rows. A round trains a model on the labels so far, ranks the rows without a label
by ``PerformanceEstimator.expected_losses``, as the monitor ranks answered rows, and labels the first of them; the peer
labels as many at random. The loss to reach is that of the peer's whole budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.results import Row, Target, row
from cluster.values import Task
from examples.flights.data import flights_frame
from monitoring.performance.estimator import MIN_LABELED_ROWS, PerformanceEstimator
from monitoring.samples.logged_rows import LoggedRows

SEEDS, FEW_SEEDS = 20, 3
ROUNDS = 10
PEER = "rows at random"


class Table(NamedTuple):
    """A table with labels, and how many of its rows a round labels."""

    name: str
    features: np.ndarray
    """[rows, columns]."""
    labels: np.ndarray
    """Index of the class, [rows]."""
    start: int
    """Labels before the first round."""
    each: int
    """Labels of a round."""
    test: int
    """Test rows."""

    @property
    def task(self) -> Task:
        """Its task."""
        classes = tuple(map(str, range(int(self.labels.max()) + 1)))
        return (
            Task(kind="binary", label="y") if len(classes) == 2 else Task(kind="multiclass", label="y", classes=classes)
        )


Rank = Callable[[Table, Pipeline, np.ndarray, np.ndarray], np.ndarray]
"""Orders rows without a label by worth, from the model, and the indices of the held-out rows and of the others."""


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare labels to the same loss, on digits, a table with clear classes, and one with noisy labels."""
    seeds = FEW_SEEDS if small else SEEDS
    for table in (digits(), breast_cancer(), flights()):
        work = f"label queue: {table.name}, {ROUNDS} rounds of {table.each} labels after the first {table.start}"
        progress(work)
        queue, half, random = zip(*(labels_to_the_same_loss(table, seed) for seed in range(seeds)), strict=True)
        for name, needed in (("", queue), ("half of them by the queue, half at random; ", half)):
            fewer = sum(ours < theirs for ours, theirs in zip(needed, random, strict=True))
            never = sum(map(math.isinf, needed))
            note = f"seeds 0 to {seeds - 1}" + (f"; {never} of them never reach it" if never else "")
            unit = f"labels to the loss of the whole random budget, {name}median"
            yield row(work, unit, _finite(median(needed)), PEER, median(random), note=note)
            target = None if name else Target(of="value", sign="=", limit=seeds)
            yield row(work, f"seeds of {seeds} with fewer labels, {name}count", fewer, target=target)


def labels_to_the_same_loss(table: Table, seed: int) -> list[float]:
    """Labels after the start until the loss of the random budget; infinite if never.

    Args:
        table: The table.
        seed: Seed of its parts.

    Returns:
        By the queue, half by the queue, and at random.
    """
    by_rank = [losses(table, seed, rank) for rank in (rank_by_queue, rank_half_by_queue, rank_at_random)]
    return [_first_at_most(found, by_rank[-1][-1]) * table.each for found in by_rank]


def losses(table: Table, seed: int, rank: Rank) -> list[float]:
    """Log loss on the test rows after each round, the start first."""
    order = np.random.default_rng(seed).permutation(len(table.labels))
    test, held_out, labeled, pool = np.split(order, np.cumsum([table.test, MIN_LABELED_ROWS, table.start]))
    found = []
    for _ in range(ROUNDS + 1):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000, tol=1e-2))
        model.fit(table.features[labeled], table.labels[labeled])
        scores = _scores(table, model, test)
        found.append(float(log_loss(table.labels[test], scores, labels=range(scores.shape[1]))))
        ranked = rank(table, model, held_out, pool)
        labeled, pool = np.concatenate([labeled, ranked[: table.each]]), ranked[table.each :]
    return found


def rank_by_queue(table: Table, model: Pipeline, held_out: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Rank as the monitor's analysis does."""
    estimator = PerformanceEstimator(table.task, _logged(table, model, held_out), ())
    worth = estimator.expected_losses(_logged(table, model, pool))
    return pool[np.argsort(-worth, kind="stable")]


def rank_half_by_queue(table: Table, model: Pipeline, held_out: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Half of a round's rows by the queue, the rest at random."""
    first = rank_by_queue(table, model, held_out, pool)[: table.each // 2]
    return np.concatenate([first, pool[~np.isin(pool, first)]])


def rank_at_random(table: Table, model: Pipeline, held_out: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Leave the random order of the seed."""
    return pool


def digits() -> Table:
    """1,797 images of ten digits."""
    data = load_digits()
    return Table("digits", data.data, data.target, start=60, each=20, test=600)


def breast_cancer() -> Table:
    """569 tumors of two kinds, 30 numbers each."""
    data = load_breast_cancer()
    return Table("breast cancer", data.data, data.target, start=20, each=5, test=200)


def flights() -> Table:
    """Whether a flight of January arrives 15 minutes late, from what its schedule says: mostly noise."""
    frame = flights_frame().filter(month=1).drop_nulls("arr_delay").head(6_000)
    hour, weekday = frame["scheduled_at"].dt.hour().to_numpy(), frame["scheduled_at"].dt.weekday().to_numpy()
    hot = [frame[name].to_dummies().to_numpy() for name in ("carrier", "origin")]
    features = np.column_stack([hour, weekday, frame["distance"].to_numpy(), *hot]).astype(float)
    late = (frame["arr_delay"] >= 15).to_numpy().astype(int)
    return Table("late flights", features, late, start=60, each=20, test=2_000)


def _logged(table: Table, model: Pipeline, index: np.ndarray) -> LoggedRows:
    scores = _scores(table, model, index)
    return LoggedRows(
        frame=pa.table({"row": index}), ids=index.astype(str), times=np.zeros(len(index)),
        scores=scores[:, 1] if table.task.kind == "binary" else scores, labels=table.labels[index].astype(float),
    )  # fmt: skip


def _scores(table: Table, model: Pipeline, index: np.ndarray) -> np.ndarray:
    """Probabilities, [rows, classes]; 0 for classes without a label so far."""
    scores = np.zeros((len(index), int(table.labels.max()) + 1))
    scores[:, model.classes_] = model.predict_proba(table.features[index])
    return scores


def _finite(value: float) -> float | None:
    """None for what never happens, which a page cannot show as a number."""
    return value if math.isfinite(value) else None


def _first_at_most(values: list[float], target: float) -> float:
    return next((float(i) for i, value in enumerate(values) if value <= target), math.inf)
