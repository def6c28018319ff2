"""Losses of rows, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster.errors import RolloutError
from cluster.row_losses import PROBABILITY_FLOOR, row_loss
from cluster.values import Task
from tests.factories.errors import raises

BINARY = Task(kind="binary", label="y")
REGRESSION = Task(kind="regression", label="y")
MULTICLASS = Task(kind="multiclass", label="y", classes=("low", "mid", "high"))
MULTILABEL = Task(kind="multilabel", label="y", classes=("cat", "dog"))


@pytest.mark.parametrize(
    ("task", "scores", "labels", "expected"),
    [
        (BINARY, [0.25, 0.25], [1.0, 0.0], [math.log(4.0), math.log(4.0 / 3.0)]),
        (REGRESSION, [1.5, -2.0], [1.0, 1.0], [0.25, 9.0]),
        (MULTICLASS, [[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]], [0.0, 2.0], [math.log(2.0), math.log(10.0)]),
        (MULTILABEL, [[0.5, 0.25], [0.1, 0.2]], [[1.0, 0.0], [1.0, 1.0]], [math.log(8 / 3) / 2, math.log(50) / 2]),
    ],
)
def test_log_or_squared_loss_of_each_row(task: Task, scores: list, labels: list, expected: list[float]) -> None:
    assert row_loss(task, np.array(scores), np.array(labels)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "scores", "labels", "expected"),
    [
        (BINARY, [0.49, 0.51, 0.51], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]),
        # A score of exactly the threshold predicts the label.
        (BINARY, [0.5, 0.5, np.nextafter(0.5, 0.0)], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]),
        (MULTILABEL, [[0.5, 0.5], [0.4, 0.6]], [[1.0, 0.0], [0.0, 1.0]], [0.5, 0.0]),
        (MULTICLASS, [[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]], [0.0, 2.0], [0.0, 1.0]),
    ],
)
def test_accuracy_counts_wrong_classes(task: Task, scores: list, labels: list, expected: list[float]) -> None:
    assert row_loss(task, np.array(scores), np.array(labels), "accuracy").tolist() == expected


def test_confident_mistake_costs_the_logarithm_of_the_floor() -> None:
    losses = row_loss(BINARY, np.array([0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0]))
    most = -math.log(PROBABILITY_FLOOR)
    assert losses == pytest.approx([most, most, -math.log1p(-PROBABILITY_FLOOR)])


def test_accuracy_of_a_regression_is_refused() -> None:
    with raises(RolloutError, "rollout.metric_not_defined", metric="accuracy", task="regression"):
        row_loss(REGRESSION, np.array([1.0]), np.array([1.0]), "accuracy")
