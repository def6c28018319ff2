"""Losses and metrics against their definitions and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as sk

from cluster.errors import ProjectError
from cluster.row_losses import PROBABILITY_FLOOR
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers import losses, metrics

SEEDS = st.integers(0, 2**32 - 1)


def _binary(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=rows).astype(float)
    labels[:2] = 0, 1
    return np.round(random.random(rows), 2), labels, random.integers(0, 4, size=rows) + 0.5


@given(SEEDS)
def test_binary_metrics_match_scikit_learn(seed: int) -> None:
    scores, labels, weights = _binary(seed)
    for weight in (None, weights):
        values = {
            name: metrics.prepare(TASKS["binary"], name, scores, labels)(weight)
            for name in ("auc", "log_loss", "brier", "accuracy")
        }
        clipped = np.clip(scores, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        assert values["auc"] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weight))
        assert values["log_loss"] == pytest.approx(sk.log_loss(labels, clipped, sample_weight=weight), rel=1e-5)
        assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores >= 0.5, sample_weight=weight))
        assert values["brier"] == pytest.approx(sk.brier_score_loss(labels, scores, sample_weight=weight))


@given(SEEDS)
def test_auc_is_invariant_under_increasing_maps(seed: int) -> None:
    scores, labels, _ = _binary(seed)
    value = metrics.auc(scores, labels)(None)
    assert metrics.auc(np.exp(3 * scores), labels)(None) == pytest.approx(value)
    assert metrics.auc(-scores, labels)(None) == pytest.approx(1 - value)


@given(SEEDS)
def test_multiclass_metrics_match_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], random.integers(3, size=100)]).astype(float)
    scores = random.dirichlet(np.ones(3), size=len(labels))
    values = metrics.evaluate(TASKS["multiclass"], scores, labels)
    assert values["log_loss"] == pytest.approx(sk.log_loss(labels, scores), rel=1e-5)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores.argmax(axis=1)))
    assert values["auc"] == pytest.approx(sk.roc_auc_score(labels, scores, multi_class="ovr"))


@given(SEEDS)
# A score below the floor.
@example(1066907)
def test_multilabel_metrics_match_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.vstack([[0, 0], [1, 1], random.integers(2, size=(80, 2))]).astype(float)
    scores, weights = random.random((82, 2)), random.integers(1, 4, size=82).astype(float)
    for weight in (None, weights):
        values = {
            name: metrics.prepare(TASKS["multilabel"], name, scores, labels)(weight)
            for name in ("auc", "log_loss", "accuracy")
        }
        clipped = np.clip(scores, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        each = [sk.log_loss(labels[:, k], clipped[:, k], sample_weight=weight) for k in range(2)]
        assert values["auc"] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weight))
        assert values["log_loss"] == pytest.approx(np.mean(each), rel=1e-5)
        assert values["accuracy"] == pytest.approx(1 - sk.hamming_loss(labels, scores >= 0.5, sample_weight=weight))
    assert metrics.prepare(TASKS["multilabel"], "ece", scores, labels)(weights) == pytest.approx(
        metrics.calibration_error(
            np.repeat(scores, weights.astype(int), axis=0).ravel(),
            np.repeat(labels, weights.astype(int), axis=0).ravel(),
        )(None)
    )


@given(SEEDS)
def test_regression_metrics_match_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, scores, weights = random.normal(size=50), random.normal(size=50), random.random(50) + 0.1
    for weight in (None, weights):
        values = {
            name: metrics.prepare(TASKS["regression"], name, scores, labels)(weight) for name in ("rmse", "mae", "r2")
        }
        assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(labels, scores, sample_weight=weight))
        assert values["mae"] == pytest.approx(sk.mean_absolute_error(labels, scores, sample_weight=weight))
        assert values["r2"] == pytest.approx(sk.r2_score(labels, scores, sample_weight=weight))


def test_calibration_error_measures_a_shift() -> None:
    random = np.random.default_rng(0)
    chance = random.uniform(0.2, 0.7, size=200_000)
    labels = (random.random(len(chance)) < chance).astype(float)
    assert metrics.calibration_error(chance, labels)(None) < 0.01
    assert metrics.calibration_error(chance + 0.1, labels)(None) == pytest.approx(0.1, abs=0.01)


def test_auc_of_one_class_is_nan() -> None:
    assert np.isnan(metrics.auc(np.array([0.1, 0.9]), np.array([1.0, 1.0]))(None))


def test_multiclass_auc_counts_every_class_that_occurs() -> None:
    """Class 0: the row of class 0 has the lower score, AUC 0; class 2: its row has the higher one, AUC 1."""
    scores, labels = np.array([[0.1, 0.6, 0.3], [0.2, 0.1, 0.7]]), np.array([0.0, 2.0])
    assert metrics.prepare(TASKS["multiclass"], "auc", scores, labels)(None) == 0.5


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_primary_metric_of_better_scores_is_better(kind: TaskKind) -> None:
    good, bad = _good_and_bad(kind)
    assert metrics.primary_metric(TASKS[kind]).is_better(
        *(values[metrics.primary_metric(TASKS[kind]).name] for values in (good, bad))
    )


def _good_and_bad(kind: TaskKind) -> tuple[dict[str, float], dict[str, float]]:
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    right, wrong = labels * 0.8 + 0.1, 0.9 - labels * 0.8
    if kind == "multiclass":
        right, wrong = (np.stack([1 - s, s, np.zeros(4)], axis=1) for s in (right, wrong))
    return metrics.evaluate(TASKS[kind], right, labels), metrics.evaluate(TASKS[kind], wrong, labels)


@pytest.mark.parametrize("kind", list(TASKS))
def test_metrics_of_nan_scores_are_nan(kind: TaskKind) -> None:
    task, random = TASKS[kind], np.random.default_rng(0)
    scores = random.random((40, task.outputs) if task.wide else 40)
    labels = random.integers(2, size=(40, task.label_width) if kind == "multilabel" else 40)
    assert not np.isnan(list(metrics.evaluate(task, scores, labels).values())).any()
    scores[3] = np.nan
    assert np.isnan(list(metrics.evaluate(task, scores, labels).values())).all()


def test_unknown_metric_is_refused() -> None:
    with raises(ProjectError, "project.unknown_metric", metric="f1", task="binary"):
        metrics.prepare(TASKS["binary"], "f1", np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_gradient_step_lowers_the_loss(kind: TaskKind) -> None:
    torch.manual_seed(0)
    task = TASKS[kind]
    logits = torch.randn(32, task.outputs, requires_grad=True)
    labels = torch.randint(0, max(2, task.outputs), (32,)).float()
    before = losses.batch_loss(task, logits, labels)
    (gradient,) = torch.autograd.grad(before, logits)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    assert losses.batch_loss(task, logits - gradient, labels) < before


def test_calibration_error_has_fifteen_bins() -> None:
    """0.066 and 0.067 are on both sides of 1/15: their gaps of -0.934 and 0.067 do not cancel."""
    error = metrics.calibration_error(np.array([0.066, 0.067]), np.array([1.0, 0.0]))(None)
    assert error == pytest.approx((0.934 + 0.067) / 2)


def test_sign_and_worst_value_follow_the_direction() -> None:
    up, down = metrics.PrimaryMetric("auc", "max"), metrics.PrimaryMetric("rmse", "min")
    assert (up.sign, up.worst) == (1.0, -np.inf)
    assert (down.sign, down.worst) == (-1.0, np.inf)


def test_r2_of_constant_labels_is_nan() -> None:
    assert np.isnan(metrics.prepare(TASKS["regression"], "r2", np.array([1.0, 2.0]), np.full(2, 3.0))(None))


def test_weighted_auc_matches_hand_computation() -> None:
    """Positives 0.8 (weight 2) and 0.4, negatives 0.4 (weight 3) and 0.1: 2 * 4 pairs won, 3 tied, 1 won; of 12."""
    scores, labels = np.array([0.8, 0.4, 0.4, 0.1]), np.array([1.0, 1.0, 0.0, 0.0])
    auc = metrics.auc(scores, labels)(np.array([2.0, 1.0, 3.0, 1.0]))
    assert auc == pytest.approx((8 + 1.5 + 1) / 12)
