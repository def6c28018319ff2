"""The benchmark of the label queue ranks as the monitor does, and measures what it says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.models import label_queue
from monitoring.performance.estimator import MIN_LABELED_ROWS


@pytest.fixture
def table() -> label_queue.Table:
    """One number; the label is 1 above 0, with noise near it only."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-4, 4, 600)
    return label_queue.Table(
        "line", x[:, None], (x + rng.normal(0, 0.3, 600) > 0).astype(int), start=20, each=5, test=200
    )


def test_queue_ranks_rows_near_the_boundary_first(table: label_queue.Table) -> None:
    model = make_pipeline(LogisticRegression()).fit(table.features[:50], table.labels[:50])
    held_out, pool = np.arange(50, 50 + MIN_LABELED_ROWS), np.arange(300, 600)
    ranked = label_queue.rank_by_queue(table, model, held_out, pool)
    assert sorted(ranked) == sorted(pool)
    distance = np.abs(table.features[ranked, 0])
    assert distance[:20].max() < distance[150:].min()
    half = label_queue.rank_half_by_queue(table, model, held_out, pool)
    assert sorted(half) == sorted(pool)
    assert half[:4].tolist() == [*ranked[:2], *pool[~np.isin(pool, ranked[:2])][:2]]


def test_rounds_use_labels_that_only_they_have(table: label_queue.Table) -> None:
    pools: list[np.ndarray] = []

    def rank(_: label_queue.Table, model: object, held_out: np.ndarray, pool: np.ndarray) -> np.ndarray:
        pools.append(pool)
        assert not set(held_out) & set(pool)
        return pool

    found = label_queue.losses(table, 0, rank)
    assert len(found) == label_queue.ROUNDS + 1
    assert [len(pool) for pool in pools] == [600 - 200 - MIN_LABELED_ROWS - 20 - 5 * i for i in range(len(found))]
    assert found[-1] < found[0]


def test_random_budget_reaches_its_own_loss(table: label_queue.Table) -> None:
    *_, random = label_queue.labels_to_the_same_loss(table, 1)
    assert 0 <= random <= label_queue.ROUNDS * table.each
