"""Inputs are perturbed as declared, and the loss is that of the inputs that the model uses."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from features.encoder import MISSING_CODE, Arrays, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from trainers.evaluation import robustness
from trainers.evaluation.robustness import RobustnessPolicy
from trainers.input_spec import InputSpec

TABLE = frame(rows=4000)
ENCODER = Encoder.fit(COLUMNS, TABLE)
ARRAYS = ENCODER.encode(TABLE)
LABELS = TABLE["label"].to_numpy()
INPUTS = InputSpec.fit(ENCODER, TASKS["binary"], ARRAYS, LABELS)


def _by_number(arrays: Arrays) -> np.ndarray:
    return np.nan_to_num(1 / (1 + np.exp(-arrays["numbers"][:, 0])), nan=0.5)


def _by_color(arrays: Arrays) -> np.ndarray:
    return np.array([0.5, 0.5, 0.4, 0.9, 0.1])[arrays["codes"][:, 0]]


@pytest.mark.parametrize(
    ("score", "hurt", "unhurt"),
    [(_by_number, (0, 1), 2), (_by_color, (1, 2), 0)],
)
def test_measure_finds_loss_of_used_inputs_only(
    score: robustness.ScoreFunction, hurt: tuple[int, ...], unhurt: int
) -> None:
    policy = RobustnessPolicy(noise=1.0, missing=0.5, shuffled=0.5)
    results = robustness.measure(policy, TASKS["binary"], INPUTS, score, ARRAYS, LABELS, seed=0)
    assert [s.perturbation for s in results] == [
        "noise of 1 std",
        "50% of values missing",
        "50% of categories shuffled",
    ]
    assert all(results[i].loss > 0.03 for i in hurt)
    assert results[unhurt].loss == 0
    again = robustness.measure(policy, TASKS["binary"], INPUTS, score, ARRAYS, LABELS, seed=0)
    assert again == results


def test_add_noise_scales_by_std_and_keeps_nan() -> None:
    noise = robustness.add_noise(ARRAYS["numbers"], INPUTS, 0.5, np.random.default_rng(0)) - ARRAYS["numbers"]
    assert np.allclose(np.nanstd(noise, axis=0)[[0, 2]], 0.5 * np.array(INPUTS.std)[[0, 2]], rtol=0.05)
    assert np.array_equal(np.isnan(noise), np.isnan(ARRAYS["numbers"]))


def test_remove_and_shuffle_keep_share_and_frequencies() -> None:
    gappy = robustness.remove_values(ARRAYS, 0.3, np.random.default_rng(0))
    assert np.isnan(gappy["numbers"][:, 0]).mean() == pytest.approx(0.3, abs=0.03)
    was = (ARRAYS["codes"] == MISSING_CODE).mean()
    assert (gappy["codes"] == MISSING_CODE).mean() == pytest.approx(was + 0.3 * (1 - was), abs=0.03)
    traded = robustness.shuffle_categories(ARRAYS["codes"], 0.5, np.random.default_rng(0))
    assert np.array_equal(np.sort(traded, axis=0), np.sort(ARRAYS["codes"], axis=0))
    assert not np.array_equal(traded, ARRAYS["codes"])


def test_check_names_perturbation() -> None:
    policy = RobustnessPolicy(missing=0.9, noise=0, shuffled=0)
    results = robustness.measure(policy, TASKS["binary"], INPUTS, _by_number, ARRAYS, LABELS, seed=0)
    assert not list(robustness.check(results, TASKS["binary"], None))
    (check,) = robustness.check(results, TASKS["binary"], 0.05)
    assert (check.name, check.passed) == ("robust to 90% of values missing", False)
    assert check.value == results[0].before - results[0].after


def test_measure_without_numbers_skips_noise() -> None:
    encoder = Encoder.fit(COLUMNS[3:4], TABLE)
    arrays = encoder.encode(TABLE)
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, LABELS)
    results = robustness.measure(RobustnessPolicy(), TASKS["binary"], inputs, _by_color, arrays, LABELS, seed=0)
    assert [s.perturbation for s in results] == ["10% of values missing", "10% of categories shuffled"]


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [("max_loss", 0.0, -0.01), ("rows", 100, 99), ("shuffled", 1.0, 1.01), ("missing", 0.0, -0.01)],
)
def test_robustness_setting_is_refused_just_outside_its_bound(name: str, allowed: float, refused: float) -> None:
    assert getattr(RobustnessPolicy.model_validate({name: allowed}), name) == allowed
    with pytest.raises(ValidationError, match=name):
        RobustnessPolicy.model_validate({name: refused})
