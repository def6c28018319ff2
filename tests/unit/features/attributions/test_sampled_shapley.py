"""Sampled Shapley values against those by definition, and the errors that they state."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.attributions import sampled_shapley
from features.attributions.contributions import FeatureLocation
from features.attributions.sampled_shapley import MIN_BACKGROUND, SampledExplainer, background_size
from features.encoder import Arrays

LOCATIONS = {
    "plain": FeatureLocation("numbers", slice(0, 1)),
    "gappy": FeatureLocation("numbers", slice(1, 2)),
    "pixels": FeatureLocation("numbers", slice(2, 4)),
    "color": FeatureLocation("codes", slice(0, 1)),
}


def _rows(count: int, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(count, 4)).astype(np.float32)
    numbers[random.random(count) < 0.3, 1] = np.nan
    return {"numbers": numbers, "codes": random.integers(4, size=(count, 1))}


def _linear(arrays: Arrays) -> np.ndarray:
    return arrays["numbers"][:, 0] * 2 + arrays["numbers"][:, 2:].sum(axis=1) + 3.0 * (arrays["codes"][:, 0] == 2)


def _mixed(arrays: Arrays) -> np.ndarray:
    gappy = np.where(np.isnan(arrays["numbers"][:, 1]), 0.4, arrays["numbers"][:, 1])
    return np.tanh(_linear(arrays) * gappy) + gappy * arrays["codes"][:, 0]


def _exact(row: Arrays, background: Arrays) -> np.ndarray:
    """Mean over all orders and background rows."""
    count = len(background["numbers"])
    total, orders = np.zeros(len(LOCATIONS)), list(permutations(range(len(LOCATIONS))))
    for order in orders:
        path = {name: values.copy() for name, values in background.items()}
        before = _mixed(path)
        for feature in order:
            array, columns = list(LOCATIONS.values())[feature]
            path[array][:, columns] = np.repeat(row[array][:, columns], count, axis=0)
            after = _mixed(path)
            total[feature] += (after - before).mean() / len(orders)
            before = after
    return total


def test_contributions_of_linear_model_are_its_terms_without_error() -> None:
    row, background = _rows(1, 1), _rows(20, 2)
    result = SampledExplainer(_linear, background, LOCATIONS).explain(row, 0)
    assert result.errors is not None
    np.testing.assert_allclose(result.errors, 0, atol=1e-6)
    assert result.base == pytest.approx(_linear(background).mean(), abs=1e-6)
    expected = 2 * (row["numbers"][0, 0] - background["numbers"][:, 0].mean())
    assert result.parts[0] == pytest.approx(expected, abs=1e-5)
    assert result.parts[1] == 0


@given(st.integers(0, 10_000))
def test_contributions_of_any_model_add_up_and_repeat(seed: int) -> None:
    row, background = _rows(1, seed), _rows(12, seed + 1)
    explainer = SampledExplainer(_mixed, background, LOCATIONS, seed)
    result = explainer.explain(row, 0)
    assert result.total == pytest.approx(float(_mixed(row)[0]), abs=1e-5)
    np.testing.assert_array_equal(result.parts, explainer.explain(row, 0).parts)


def test_stated_errors_cover_exact_values() -> None:
    """Of contributions with different orders, 95 % are within two standard errors, up to what 800 of them vary."""
    background, inside = _rows(10, 3), list[bool]()
    for seed in range(200):
        row = _rows(1, 100 + seed % 10)
        result = SampledExplainer(_mixed, background, LOCATIONS, seed).explain(row, 0)
        assert result.errors is not None
        inside += (np.abs(result.parts - _exact(row, background)) <= 2.0 * result.errors + 1e-6).tolist()
    assert 0.92 <= np.mean(inside) <= 0.99


def test_output_selects_the_class() -> None:
    def score(arrays: Arrays) -> np.ndarray:
        return np.column_stack([_linear(arrays), _mixed(arrays)])

    row, background = _rows(1, 5), _rows(9, 6)
    both = SampledExplainer(score, background, LOCATIONS)
    for output, alone in enumerate((_linear, _mixed)):
        expected = SampledExplainer(alone, background, LOCATIONS).explain(row, 0)
        np.testing.assert_allclose(both.explain(row, output).parts, expected.parts)


def test_only_feature_gets_the_whole_difference() -> None:
    one = {"plain": LOCATIONS["plain"]}
    background = {"numbers": np.zeros((3, 1), np.float32), "codes": np.zeros((3, 0), np.int64)}
    row = {"numbers": np.full((1, 1), 2.0, np.float32), "codes": np.zeros((1, 0), np.int64)}
    result = SampledExplainer(lambda arrays: arrays["numbers"][:, 0] ** 2, background, one).explain(row, 0)
    assert (result.base, result.parts.tolist()) == (0.0, [4.0])


def test_evaluations_stay_within_the_budget() -> None:
    for features in (2, 30, 100):
        assert background_size(features) * 4 * (features - 1) <= sampled_shapley.EVALUATIONS
    assert background_size(1000) == MIN_BACKGROUND
