"""Distances of scores, and costs that labels would have if they followed either variant's probabilities."""

import math

import numpy as np
import pytest

from cluster.row_losses import row_loss
from cluster.values import Task
from deployments.analysis.paired_predictions import PairedPrediction
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.analysis.scored_rows import ScoredRows
from tests.factories.deployments.tasks import BINARY, MULTICLASS

REGRESSION = Task(kind="regression", label="minutes")


def test_distance_of_classes_is_the_mean_total_variation() -> None:
    binary = ScoreAgreement.from_scores(BINARY, np.array([0.2, 0.5]), np.array([0.3, 0.5]), "loss")
    assert (binary.rows, binary.mean_distance) == (2, pytest.approx(0.05))
    p, q = np.array([[0.2, 0.3, 0.5]]), np.array([[0.5, 0.3, 0.2]])
    assert ScoreAgreement.from_scores(MULTICLASS, p, q, "loss").mean_distance == pytest.approx(0.3)


def test_distance_of_a_regression_is_a_fraction_of_the_variance() -> None:
    champion = np.array([0.0, 2.0, 4.0, 6.0])
    agreement = ScoreAgreement.from_scores(REGRESSION, champion, champion + 1.0, "loss")
    assert agreement.mean_distance == pytest.approx(1.0 / 5.0)
    assert agreement.by_champion.n == agreement.by_challenger.n == 0
    constant = ScoreAgreement.from_scores(REGRESSION, np.ones(3), np.zeros(3), "loss")
    assert constant.mean_distance == math.inf


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_expected_costs_are_those_of_labels_drawn_from_the_probabilities(metric) -> None:
    chance = np.random.default_rng(0)
    champion, challenger = chance.uniform(0.05, 0.95, (2, 40))
    agreement = ScoreAgreement.from_scores(BINARY, champion, challenger, metric)
    draws = 20_000
    for moments, probabilities in ((agreement.by_champion, champion), (agreement.by_challenger, challenger)):
        labels = (chance.random((draws, 40)) < probabilities).astype(float).ravel()
        for expected, scores in ((moments.champion, champion), (moments.challenger, challenger)):
            assert row_loss(BINARY, np.tile(scores, draws), labels, metric).mean() == pytest.approx(expected, abs=0.004)


def test_difference_of_expected_costs_is_the_divergence_of_either() -> None:
    p, q = np.array([0.2, 0.7]), np.array([0.4, 0.6])
    agreement = ScoreAgreement.from_scores(BINARY, p, q, "loss")
    divergence = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    reverse = np.mean(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))
    assert agreement.by_champion.challenger - agreement.by_champion.champion == pytest.approx(divergence)
    assert agreement.by_challenger.challenger - agreement.by_challenger.champion == pytest.approx(-reverse)


def test_scored_rows_keep_the_first_of_each_share_and_count_their_keys() -> None:
    rows = ScoredRows(most=3)
    for number in range(5):
        for share in (0.1, 0.5):
            rows.add(PairedPrediction(share, 7, 0.5, 0.5 + 0.1 * number, 0))
    assert [rows.agreement(BINARY, "loss", share).rows for share in (0.1, 0.5, 1.0)] == [3, 3, 0]
    everything = rows.agreement(BINARY, "loss")
    assert (everything.rows, everything.mean_distance) == (6, pytest.approx(0.1))
    # All rows have the same key.
    assert everything.distance.effective_n == pytest.approx(1.0)
