"""Moments with labels drawn from a variant's probabilities: by hand, and as the mean over all labels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cluster.row_losses import row_loss
from cluster.values import Task
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.predicted_moments import PredictedMoments
from tests.factories.deployments.tasks import BINARY, MULTICLASS

MULTILABEL = Task(kind="multilabel", label="y", classes=("a", "b"))


def test_predicted_moments_of_one_binary_row() -> None:
    # The champion expects a positive with 0.25; the challenger is indifferent, its loss is log 2 for either label.
    moments = PredictedMoments.from_scores(BINARY, np.array([0.25]), np.array([0.5]), "loss")
    for_positive, for_negative = -math.log(0.25), -math.log(0.75)
    by_champion, by_challenger = moments.by_champion, moments.by_challenger
    assert by_champion.champion == pytest.approx(0.25 * for_positive + 0.75 * for_negative)
    assert by_challenger.champion == pytest.approx(0.5 * for_positive + 0.5 * for_negative)
    assert by_champion.m2_champion == pytest.approx(0.25 * 0.75 * math.log(3.0) ** 2)
    assert by_challenger.m2_champion == pytest.approx(0.25 * math.log(3.0) ** 2)
    assert (by_champion.challenger, by_champion.m2_challenger) == pytest.approx((math.log(2.0), 0.0))


def scores_of(task: Task, rows: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(7)
    if task.kind == "multiclass":
        return chance.dirichlet(np.ones(3), rows), chance.dirichlet(np.ones(3), rows)
    shape = (rows, 2) if task.kind == "multilabel" else (rows,)
    return chance.uniform(0.05, 0.95, shape), chance.uniform(0.05, 0.95, shape)


def labelings(task: Task, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """All labels that the rows could have, each with its probability."""
    if task.kind == "multiclass":
        labels = [np.array(of) for of in itertools.product(range(3), repeat=len(scores))]
        return [(float(scores[np.arange(len(scores)), of].prod()), of.astype(float)) for of in labels]
    flat = scores.reshape(-1)
    all_labels = [np.array(of) for of in itertools.product((0.0, 1.0), repeat=flat.size)]
    return [(float(np.where(of > 0.5, flat, 1.0 - flat).prod()), of.reshape(scores.shape)) for of in all_labels]


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, MULTILABEL], ids=lambda task: task.kind)
def test_predicted_moments_are_expectations_over_all_labels(task: Task) -> None:
    champion, challenger = scores_of(task, 3)
    predicted = PredictedMoments.from_scores(task, champion, challenger, "loss")
    for believed, moments in ((champion, predicted.by_champion), (challenger, predicted.by_challenger)):
        weights, means, squares = [], [], []
        for weight, labels in labelings(task, believed):
            losses = [row_loss(task, scores, labels) for scores in (champion, challenger)]
            excess = losses[1] - 1.1 * losses[0]
            weights.append(weight)
            means.append(excess.mean())
            squares.append(np.square(excess).mean())
        mean = float(np.dot(weights, means))
        assert sum(weights) == pytest.approx(1.0)
        assert moments.excess(0.1).mean == pytest.approx(mean)
        assert moments.excess(0.1).variance == pytest.approx(float(np.dot(weights, squares)) - mean**2)


def test_predicted_moments_merge_as_if_computed_together() -> None:
    champion, challenger = scores_of(BINARY, 5)
    parts = [
        PredictedMoments.from_scores(BINARY, champion[at], challenger[at], "loss") for at in (slice(2), slice(2, 5))
    ]
    whole = PredictedMoments.from_scores(BINARY, champion, challenger, "loss")
    merged = parts[0] + parts[1]
    for part, all_rows in ((merged.by_champion, whole.by_champion), (merged.by_challenger, whole.by_challenger)):
        assert part.excess(0.1).model_dump() == pytest.approx(all_rows.excess(0.1).model_dump())


def test_predicted_moments_without_a_predicted_distribution_are_empty() -> None:
    scores = np.array([0.2, 0.9])
    assert (
        PredictedMoments.from_scores(Task(kind="regression", label="y"), scores, scores, "loss") == PredictedMoments()
    )
    assert PredictedMoments.from_scores(BINARY, scores, scores, "accuracy") == PredictedMoments()
    assert PredictedMoments.from_scores(BINARY, scores[:0], scores[:0], "loss") == PredictedMoments()
    assert PredictedMoments().by_champion == PairedMoments()
