"""Effects of features in models whose true ones are known."""

from __future__ import annotations

import numpy as np
import pytest

from features.encoder import Arrays, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from trainers.evaluation.feature_effects import FeatureEffect, measure_effects
from trainers.input_spec import InputSpec

TABLE = frame(rows=2000)
ENCODER = Encoder.fit(COLUMNS, TABLE)
ARRAYS = ENCODER.encode(TABLE)
INPUTS = InputSpec.fit(ENCODER, TASKS["binary"], ARRAYS, TABLE["label"].to_numpy())


def _score(arrays: Arrays) -> np.ndarray:
    """3 * plain + gappy ** 2, and 5 for blue (code 2), which no other feature changes."""
    gappy = np.nan_to_num(arrays["numbers"][:, 2])
    return 3.0 * arrays["numbers"][:, 0] + gappy**2 + 5.0 * (arrays["codes"][:, 0] == 2)


def _effects(*names: str) -> tuple[FeatureEffect, ...]:
    return measure_effects(INPUTS, _score, TABLE, ARRAYS, names)


def test_effect_of_a_linear_number_is_a_line_around_zero() -> None:
    [effect] = _effects("plain")
    numbers, effects = np.array(effect.numbers), np.array(effect.effects)
    np.testing.assert_allclose(np.diff(effects), 3 * np.diff(numbers), rtol=1e-4)
    assert np.interp(TABLE["plain"].to_numpy(), numbers, effects).mean() == pytest.approx(0, abs=0.2)


def test_effect_of_a_number_with_missing_values_is_that_of_the_present_ones() -> None:
    [effect] = _effects("gappy")
    numbers, effects = np.array(effect.numbers), np.array(effect.effects)
    np.testing.assert_allclose(effects - effects[0], numbers**2 - numbers[0] ** 2, atol=1e-3)


def test_effect_of_a_correlated_feature_that_the_model_ignores_is_zero() -> None:
    """Accumulated effects, unlike means over rows with the value, do not borrow from other features."""
    arrays = {**ARRAYS, "numbers": ARRAYS["numbers"].copy()}
    arrays["numbers"][:, 1] = arrays["numbers"][:, 0]
    [effect] = measure_effects(INPUTS, _score, TABLE, arrays, ["heavy"])
    assert effect.effects == pytest.approx([0.0] * len(effect.effects))


def test_effect_of_a_category_is_by_its_names_most_frequent_first() -> None:
    [effect] = _effects("color")
    assert sorted(effect.categories) == ["None", "blue", "green", "red"]
    by_name = dict(zip(effect.categories, effect.effects, strict=True))
    assert by_name["blue"] - by_name["red"] == pytest.approx(5, abs=1e-3)
    assert by_name["red"] == pytest.approx(by_name["green"], abs=1e-3)


def test_tensors_and_constants_have_no_effect() -> None:
    arrays = {**ARRAYS, "numbers": np.zeros_like(ARRAYS["numbers"])}
    assert measure_effects(INPUTS, _score, TABLE, arrays, ["plain", "pixels"]) == ()
