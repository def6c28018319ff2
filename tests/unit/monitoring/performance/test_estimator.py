"""Losses, observed metrics and estimates by task."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from features.definitions import Column
from monitoring.performance.estimator import PerformanceEstimator, observed_metrics, row_losses
from monitoring.samples.logged_rows import LoggedRows

MULTICLASS = Task(kind="multiclass", label="kind", classes=("x", "y", "z"))
REGRESSION = Task(kind="regression", label="sold")


def logged(scores: list | np.ndarray, labels: list | np.ndarray, **features: np.ndarray) -> LoggedRows:
    n = len(labels)
    frame = pa.table(features) if features else pa.table({"a": np.zeros(n)})
    return LoggedRows(frame, np.arange(n).astype(str), np.zeros(n), np.array(scores, float), np.array(labels, float))


def test_metrics_of_several_classes_by_hand():
    rows = logged([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], [0, 1, 0, np.nan])
    losses = [0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.7**2 + 0.6**2, 0.5**2 + 0.5**2]
    assert row_losses(MULTICLASS, rows) == pytest.approx([*losses, np.nan], nan_ok=True)
    # The first and the third, whose tie goes to the first class.
    assert observed_metrics(MULTICLASS, rows) == pytest.approx({"accuracy": 2 / 3, "brier": sum(losses) / 3})


def test_metrics_of_a_regression_by_hand():
    rows = logged([1.0, 2.0, 9.0], [2.0, 5.0, np.nan])
    assert row_losses(REGRESSION, rows) == pytest.approx([1.0, 3.0, np.nan], nan_ok=True)
    assert observed_metrics(REGRESSION, rows) == pytest.approx({"mae": 2.0, "rmse": 5.0**0.5})
    assert observed_metrics(REGRESSION, logged([1.0], [np.nan])) == {}


def test_estimate_of_several_classes_is_the_calibrated_chance_of_the_predicted_one():
    """Of the rows with 0.8, 60 % are right; of those with 0.5, 30 %."""
    sure, unsure = [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]
    labels = np.repeat([1, 0, 0, 2], [60, 40, 30, 70])
    estimator = PerformanceEstimator(MULTICLASS, logged([sure] * 100 + [unsure] * 100, labels), ())
    live = logged([sure] * 3 + [unsure], [np.nan] * 4)
    assert estimator.estimate(live) == {"CBPE": {"accuracy": pytest.approx((3 * 0.6 + 0.3) / 4)}}
    assert estimator.estimate_adapted(live, None) == {}
    # p (1 - s)^2 + (1 - p) s^2 of the predicted class.
    losses = [0.6 * 0.2**2 + 0.4 * 0.8**2, 0.3 * 0.5**2 + 0.7 * 0.5**2]
    assert estimator.expected_losses(live) == pytest.approx([losses[0]] * 3 + [losses[1]])


def test_estimate_of_a_regression_follows_the_live_features():
    """Errors are 1 where the feature is 0, and 3 where it is 1."""
    feature = np.repeat([0.0, 1.0], 200)
    error = np.where(feature, 3.0, 1.0)
    reference = logged(np.zeros(400), error, a=feature)
    estimator = PerformanceEstimator(REGRESSION, reference, (Column(name="a", kind="number"),))
    for value, expected in ((0.0, 1.0), (1.0, 3.0)):
        live = logged(np.zeros(5), np.full(5, np.nan), a=np.full(5, value))
        assert estimator.estimate(live)["DLE"] == pytest.approx({"mae": expected, "rmse": expected}, rel=0.01)
        assert estimator.expected_losses(live) == pytest.approx([expected] * 5, rel=0.01)
