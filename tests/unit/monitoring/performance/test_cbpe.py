"""Performance without labels, compared with the truth."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics

from cluster.errors import DataError
from cluster.row_losses import row_loss
from cluster.values import Task
from monitoring.performance.cbpe import Calibrator, classifier_performance
from monitoring.performance.dle import LossModel, observed_loss
from monitoring.performance.estimator import PerformanceEstimator
from monitoring.samples.domain_classifier import DomainClassifier
from monitoring.samples.logged_rows import LoggedRows
from tests.factories.errors import raises


def world(rng: np.random.Generator, rows: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, scores and labels. The model is overconfident, and does not know the second feature."""
    features = rng.normal([shift, shift], 1.0, (rows, 2))
    labels = (rng.random(rows) < expit(1.5 * features[:, 0] + 1.5 * features[:, 1])).astype(float)
    return features, expit(2.5 * features[:, 0]), labels


def test_observed_metrics_agree_with_scikit_learn():
    _, scores, labels = world(np.random.default_rng(0), 500)
    performance, called = classifier_performance(scores, labels), scores >= 0.5
    assert performance == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, called),
            "f1": metrics.f1_score(labels, called),
            "auc": metrics.roc_auc_score(labels, scores),
            "log_loss": metrics.log_loss(labels, scores),
            "brier": metrics.brier_score_loss(labels, scores),
        }
    )


def test_observed_metrics_are_the_losses_of_the_gate_and_of_rollouts_at_the_limits():
    scores, labels = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 0.5]), np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    performance, task = classifier_performance(scores, labels), Task(kind="binary", label="y")
    assert performance["log_loss"] == pytest.approx(row_loss(task, scores, labels).mean(), rel=1e-9)
    assert performance["accuracy"] == 1 - row_loss(task, scores, labels, "accuracy").mean() == 0.5


def test_calibrated_probabilities_estimate_performance_better_than_raw_scores():
    rng = np.random.default_rng(1)
    _, scores, labels = world(rng, 20_000)
    calibrate = Calibrator(scores, labels)
    _, scores, labels = world(rng, 20_000)
    truth, estimate, raw = (
        classifier_performance(scores, labels),
        classifier_performance(scores, calibrate(scores)),
        classifier_performance(scores, scores),
    )
    assert estimate == pytest.approx(truth, abs=0.02)
    assert abs(raw["accuracy"] - truth["accuracy"]) > 0.05


def test_pape_follows_covariate_shift_better_than_cbpe():
    rng = np.random.default_rng(3)
    features, scores, labels = world(rng, 10_000)
    cbpe = pape = 0.0
    for shift in (0.5, 0.7):
        live, live_scores, live_labels = world(rng, 5_000, shift)
        truth = classifier_performance(live_scores, live_labels)["accuracy"]
        cbpe += abs(classifier_performance(live_scores, Calibrator(scores, labels)(live_scores))["accuracy"] - truth)
        calibrate = Calibrator(scores, labels, DomainClassifier(features, live).density_ratio())
        pape += abs(classifier_performance(live_scores, calibrate(live_scores))["accuracy"] - truth)
    assert pape < cbpe / 2


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_performance_is_defined_or_left_out_for_any_scores(rows):
    scores, probabilities = np.array(rows).T
    performance = classifier_performance(scores, probabilities)
    assert all(-1e-9 <= performance.get(metric, 0.0) <= 1 + 1e-9 for metric in ("accuracy", "f1", "auc"))
    assert np.isfinite([performance["log_loss"], performance["brier"]]).all()


@pytest.mark.parametrize(
    ("scores", "labels", "code"),
    [([], [], "data.not_finite"), ([0.2, np.nan], [0, 1], "data.not_finite"), ([0.2, 0.4], [0, 2], "data.not_binary")],
)
def test_calibrator_refuses_unusable_rows(scores, labels, code):
    with raises(DataError, code):
        Calibrator(np.array(scores), np.array(labels))


def test_loss_model_estimates_losses_that_depend_on_the_features():
    rng = np.random.default_rng(4)

    def rows(count: int, low: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features = rng.uniform(low, 3, (count, 2))
        features[rng.random(count) < 0.05, 1] = np.nan
        predictions = 2 * features[:, 0]
        return features, predictions, predictions + rng.normal(size=count) * features[:, 0]

    model = LossModel(*rows(8_000, 0.0))
    for low in (0.0, 2.0):
        features, predictions, labels = rows(4_000, low)
        estimate, truth = model.estimate(features, predictions), observed_loss(predictions, labels)
        assert estimate["mae"] == pytest.approx(truth["mae"], rel=0.06)
        assert estimate["rmse"] == pytest.approx(truth["rmse"], rel=0.06)


def test_estimator_of_too_few_labeled_rows_is_refused():
    zeros = np.zeros(9)
    rows = LoggedRows(pa.table({"a": zeros}), zeros.astype(str), zeros, zeros, zeros)
    with raises(DataError, "data.too_few_labeled_rows", rows=9):
        PerformanceEstimator(Task(kind="regression", label="sold"), rows, ())
