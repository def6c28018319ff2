"""Accuracies of labeling functions whose accuracies are known."""

from __future__ import annotations

import numpy as np
import pytest

from features.labeling.label_model import UNKNOWN, LabelModel, VoteCounts, fit_label_model, one_hot
from features.labeling.labeling_functions import ABSTAIN
from tests.factories.effort import examples
from tests.factories.features.votes import draw_classes, draw_votes

ACCURACIES, COVERAGES = (0.62, 0.7, 0.75, 0.82, 0.9), (0.5, 0.3, 0.6, 0.4, 0.2)


def _counts(votes: np.ndarray, classes: np.ndarray, true: int = 0) -> VoteCounts:
    labels = np.where(np.arange(len(classes)) < true, classes, UNKNOWN)
    rows, counts = np.unique(np.column_stack([votes, labels]), axis=0, return_counts=True)
    return VoteCounts(rows[:, :-1], rows[:, -1], counts)


def _fit(seed: int, rows: int = 20_000, true: int = 0) -> tuple[LabelModel, VoteCounts, np.ndarray]:
    classes = draw_classes(rows, (0.7, 0.3), seed)
    votes = draw_votes(classes, ACCURACIES, COVERAGES, seed)
    counts = _counts(votes, classes, true)
    voted = votes != ABSTAIN
    right = ((votes == classes[:, None]) & voted).sum(axis=0) / voted.sum(axis=0)
    return fit_label_model(counts, 2), counts, right


@pytest.mark.parametrize("true", [0, 200])
def test_fit_independent_functions_finds_their_accuracies_and_the_shares_of_classes(true: int) -> None:
    model, _, right = _fit(seed=1, true=true)
    assert model.accuracies == pytest.approx(right, abs=0.03)
    assert model.prior == pytest.approx((0.7, 0.3), abs=0.03)


def test_fit_three_classes_finds_accuracies() -> None:
    classes = draw_classes(20_000, (0.5, 0.3, 0.2), 2)
    votes = draw_votes(classes, ACCURACIES[1:], COVERAGES[1:], 2, count=3)
    model = fit_label_model(_counts(votes, classes), 3)
    assert model.accuracies == pytest.approx(ACCURACIES[1:], abs=0.04)


def test_posterior_of_independent_functions_is_that_of_the_true_model() -> None:
    model, counts, _ = _fit(seed=3, rows=50_000)
    coverage, accuracy = np.array(COVERAGES)[:, None], np.array(ACCURACIES)[:, None]
    tables = np.stack([np.hstack([coverage * part, 1.0 - coverage]) for part in (
        np.hstack([accuracy, 1.0 - accuracy]), np.hstack([1.0 - accuracy, accuracy])
    )], axis=1)  # fmt: skip
    true = LabelModel(np.array([0.7, 0.3]), tables)
    difference = np.abs(model.posterior(counts.votes) - true.posterior(counts.votes)).max(axis=1)
    assert np.average(difference, weights=counts.counts) < 0.02


def test_fit_functions_in_another_order_gives_the_same_figures() -> None:
    model, counts, _ = _fit(seed=4, rows=2_000, true=50)
    order = np.array([3, 0, 4, 2, 1])
    other = fit_label_model(counts._replace(votes=counts.votes[:, order]), 2)
    assert other.accuracies == pytest.approx(model.accuracies[order], abs=1e-6)
    assert other.posterior(counts.votes[:, order]) == pytest.approx(model.posterior(counts.votes), abs=1e-6)


def test_fit_counts_equals_fit_of_the_rows_one_by_one() -> None:
    model, counts, _ = _fit(seed=5, rows=500)
    single = VoteCounts(*(np.repeat(part, counts.counts, axis=0) for part in counts[:2]), np.ones(500, int))
    assert fit_label_model(single, 2).outcomes == pytest.approx(model.outcomes, abs=1e-9)


def test_fit_with_true_labels_finds_functions_worse_than_chance() -> None:
    classes = draw_classes(5_000, (0.5, 0.5), 6)
    votes = draw_votes(classes, (0.2, 0.25, 0.3), (0.6, 0.6, 0.6), 6)
    model = fit_label_model(_counts(votes, classes, true=200), 2)
    assert model.accuracies == pytest.approx((0.2, 0.25, 0.3), abs=0.05)


def test_fit_functions_of_one_class_each_finds_their_precision() -> None:
    classes = draw_classes(20_000, (0.7, 0.3), 7)
    rng = np.random.default_rng(7)
    votes = np.full((len(classes), 5), ABSTAIN)
    for j, (own, hit, false) in enumerate(
        [(1, 0.3, 0.06), (1, 0.5, 0.15), (0, 0.4, 0.1), (0, 0.6, 0.2), (1, 0.2, 0.02)]
    ):
        votes[rng.random(len(classes)) < np.where(classes == own, hit, false), j] = own
    model = fit_label_model(_counts(votes, classes), 2)
    right = [(classes[votes[:, j] != ABSTAIN] == votes[votes[:, j] != ABSTAIN, j]).mean() for j in range(5)]
    assert model.accuracies == pytest.approx(right, abs=0.05)


def test_chance_of_a_function_of_one_class_is_the_share_of_the_class() -> None:
    table = np.array([[[0.0, 0.2, 0.8], [0.0, 0.2, 0.8]]])
    model = LabelModel(np.array([0.7, 0.3]), np.maximum(table, 1e-12))
    assert model.chance == pytest.approx([0.3])
    assert model.accuracies == pytest.approx([0.3])


def test_one_hot_votes_have_one_outcome_for_each_function() -> None:
    assert one_hot(np.array([[0, ABSTAIN]]), 2).tolist() == [[1, 0, 0, 0, 0, 1]]


def test_standard_errors_of_many_tables_cover_the_accuracies() -> None:
    tables = examples(60)
    inside = []
    for seed in range(tables):
        model, counts, _ = _fit(seed=100 + seed, rows=3_000, true=100)
        inside.append(np.abs(model.accuracies - ACCURACIES) <= 1.96 * model.standard_errors(counts))
    assert np.mean(inside) >= 0.90
