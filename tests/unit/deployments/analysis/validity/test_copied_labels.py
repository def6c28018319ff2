"""Labels made from scores are told from labels that happened, however sure or unsure the scores are."""

import numpy as np
import pytest
from scipy import special

from cluster.values import Task
from deployments.analysis.validity.copied_labels import MOST_SHARP, log_e_copied
from tests.factories.deployments.tasks import BINARY, MULTICLASS

REGRESSION = Task(kind="regression", label="y")
ROWS = 2_000


def binary(power: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose odds are those of the scores to a power."""
    chance = np.random.default_rng(0)
    logit = chance.normal(0.0, 1.0, ROWS)
    return (chance.random(ROWS) < special.expit(power * logit)).astype(float), special.expit(logit)[:, None]


def test_log_e_copied_of_the_sharpest_labels_that_can_happen_has_mean_one() -> None:
    for logit in (-2.0, -0.3, 0.1, 1.5):
        score = np.array([[special.expit(logit)]])
        e_values = [np.exp(log_e_copied(BINARY, np.array([label]), score, 1.0)) for label in (0.0, 1.0)]
        share = special.expit(MOST_SHARP * logit)
        assert (1.0 - share) * e_values[0] + share * e_values[1] == pytest.approx(1.0)


def test_log_e_copied_of_calibrated_and_of_unsure_scores_says_sound() -> None:
    assert log_e_copied(BINARY, *binary(1.0), 1.0) < 0.0
    assert log_e_copied(BINARY, *binary(MOST_SHARP), 1.0) < 1.0


def test_log_e_copied_of_predicted_classes_says_copied() -> None:
    _, scores = binary(1.0)
    assert log_e_copied(BINARY, (scores[:100, 0] > 0.5).astype(float), scores[:100], 1.0) > 8.0
    wide = np.random.default_rng(1).dirichlet(np.ones(3), 200)
    assert log_e_copied(MULTICLASS, wide.argmax(axis=1).astype(float), wide, 1.0) > 8.0
    assert log_e_copied(MULTICLASS, wide.argmax(axis=1).astype(float), wide, 4.0) == pytest.approx(
        log_e_copied(MULTICLASS, wide.argmax(axis=1).astype(float), wide, 1.0) / 4.0
    )


def test_log_e_copied_of_a_regression_counts_labels_equal_to_fractional_scores() -> None:
    scores = np.random.default_rng(2).normal(0.0, 1.0, (100, 1))
    assert log_e_copied(REGRESSION, scores[:, 0], scores, 1.0) > 8.0
    assert log_e_copied(REGRESSION, scores[:, 0] + 0.01, scores, 1.0) < 0.0
    # Counts of rare events are often 0, and so are predictions of them.
    assert log_e_copied(REGRESSION, np.zeros(100), np.zeros((100, 1)), 1.0) < 0.0
