"""Greedy ensembles, and what repeating the choice says of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from cluster.row_losses import row_loss
from cluster.values import Task
from trainers.selection.ensemble import LIBRARY, combine, corrected_losses, select

BINARY = Task(kind="binary", label="late")
PRICE = Task(kind="regression", label="price")
WHICH = Task(kind="multiclass", label="which", classes=("a", "b", "c"))


def squared(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return row_loss(PRICE, scores, labels)


def test_models_with_opposite_errors_answer_together_at_the_weights_that_cancel_them() -> None:
    labels = np.zeros(50)
    scores = np.stack([np.full(50, 3.0), np.full(50, -1.0), np.full(50, 9.0)])
    weights = select(scores, partial(squared, labels), 2)
    assert weights[0].tolist() == [0, 1, 0], "the best alone"
    assert weights[1].tolist() == [0.25, 0.75, 0]
    assert combine(scores, weights[1]) == pytest.approx(0)


def test_ensemble_of_each_size_is_no_worse_on_the_rows_that_chose_it_and_no_larger() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=400)
    scores = labels + rng.normal(size=(12, 400)) * np.linspace(0.5, 1.5, 12)[:, None]
    losses = partial(squared, labels)
    weights = select(scores, losses, 5)
    values = [losses(combine(scores, each)).mean() for each in weights]
    assert weights.sum(axis=1) == pytest.approx(1)
    assert all(np.count_nonzero(each) <= size for size, each in enumerate(weights, start=1))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.6 * values[0]
    assert not weights[:, np.argsort([losses(s).mean() for s in scores])[LIBRARY:]].any()


def test_multiclass_scores_are_combined_by_class() -> None:
    labels = np.array([0.0, 1.0, 2.0])
    good, bad = np.eye(3) * 0.7 + 0.1, np.full((3, 3), 1 / 3)
    weights = select(np.stack([bad, good]), lambda scores: row_loss(WHICH, scores, labels), 2)
    assert weights[1].tolist() == [0, 1]
    assert combine(np.stack([bad, good]), np.array([0.5, 0.5])) == pytest.approx((good + bad) / 2)


def test_correction_of_the_best_of_equals_is_near_their_true_loss() -> None:
    """Forty models that know nothing: the best of them looks better than it is."""
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.5).astype(float)
    scores = np.clip(0.5 + 0.2 * rng.normal(size=(40, 300)), 0.05, 0.95)
    fresh = (rng.random(200_000) < 0.5).astype(float)
    truth = row_loss(BINARY, np.clip(0.5 + 0.2 * rng.normal(size=200_000), 0.05, 0.95), fresh).mean()
    losses = partial(row_loss, BINARY, labels=labels)
    shares = select(scores, losses, 1)[0]
    (corrected,) = corrected_losses(scores, losses, 1, seed=0)
    looks = losses(combine(scores, shares)).mean()
    assert truth - looks > 0.05
    assert abs(corrected.value - truth) < (truth - looks) / 2
    assert corrected.low < truth < corrected.high


def test_correction_has_an_interval_for_each_size_and_repeats() -> None:
    rng = np.random.default_rng(1)
    labels = rng.normal(size=120)
    scores = labels + rng.normal(size=(5, 120))
    one, again = (corrected_losses(scores, partial(squared, labels), 3, seed=4) for _ in range(2))
    assert one == again
    assert len(one) == 3
    assert all(each.low < each.value < each.high for each in one)
    assert one[2].value < one[0].value, "three models with errors of their own are better than one, on other rows, too"


def test_correction_of_a_single_row_is_its_loss() -> None:
    (only,) = corrected_losses(np.array([[1.0]]), partial(squared, np.array([0.0])), 1, seed=0)
    assert only.value == only.low == only.high == 1.0
