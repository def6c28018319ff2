"""Temperatures: recovered where planted, without effect on ranks; the calibration error against hand computation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from cluster.values import TaskKind
from tests.factories.trainers.frames import TASKS
from trainers import metrics
from trainers.evaluation import calibration


def _overconfident(
    kind: TaskKind, temperature: float, rows: int = 20_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose logits are ``temperature`` times the true ones, and labels drawn from the true probabilities."""
    random = np.random.default_rng(seed)
    if kind == "binary":
        logits = random.normal(size=rows) * 1.5
        return expit(temperature * logits), (random.random(rows) < expit(logits)).astype(float)
    logits = random.normal(size=(rows, 3)) * 1.5
    chosen = (random.random((rows, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return softmax(temperature * logits, axis=1), np.minimum(chosen, 2).astype(float)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
def test_fit_temperature_recovers_planted_one_and_improves_other_rows(kind: TaskKind, planted: float) -> None:
    task = TASKS[kind]
    temperature = calibration.fit_temperature(task, *_overconfident(kind, planted))
    assert temperature == pytest.approx(planted, rel=0.06)
    scores, labels = _overconfident(kind, planted, seed=1)
    result = calibration.measure(task, scores, labels, temperature, applied=True)
    assert result.ece_after < 0.02
    if planted != 1.0:
        assert result.ece_before > 3 * result.ece_after
        assert result.log_loss_after < result.log_loss_before


def test_calibration_error_matches_hand_computation() -> None:
    """Bins of 1/15: {0.1, 0.12} predict 0.11 and half come true; {0.9} predicts 0.9 and comes true."""
    scores, labels = np.array([0.1, 0.12, 0.9]), np.array([0.0, 1.0, 1.0])
    assert metrics.calibration_error(scores, labels)(None) == pytest.approx((2 * (0.5 - 0.11) + 1 * 0.1) / 3)


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=30, unique=True), st.floats(0.05, 20))
def test_apply_temperature_keeps_ranks_and_is_invertible(values: list[float], temperature: float) -> None:
    scores, task = np.array(values), TASKS["binary"]
    after = calibration.apply_temperature(task, scores, temperature)
    order = np.argsort(scores)
    assert (np.diff(after[order]) >= 0).all()
    inside = (after > 1e-6) & (after < 1 - 1e-6)
    assert np.allclose(calibration.apply_temperature(task, after, 1 / temperature)[inside], scores[inside], rtol=1e-6)


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_apply_temperature_keeps_likeliest_class(temperature: float, seed: int) -> None:
    scores = np.random.default_rng(seed).dirichlet(np.ones(3), size=20)
    after = calibration.apply_temperature(TASKS["multiclass"], scores, temperature)
    assert np.allclose(after.sum(axis=1), 1)
    assert np.array_equal(after.argmax(axis=1), scores.argmax(axis=1))


def test_check_covers_applied_temperature_only() -> None:
    task, (scores, labels) = TASKS["binary"], _overconfident("binary", 1.0)
    worse = calibration.measure(task, scores, labels, 4.0, applied=True)
    (check,) = calibration.check(worse, 0.01)
    assert not check.passed
    assert check.value == pytest.approx(worse.ece_after - worse.ece_before)
    (check,) = calibration.check(calibration.measure(task, scores, labels, 1.01, applied=True), 0.01)
    assert check.passed
    assert not list(calibration.check(worse.model_copy(update={"applied": False}), 0.01))
    assert not list(calibration.check(None, 0.01))
