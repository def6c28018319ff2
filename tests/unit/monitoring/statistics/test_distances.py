"""Distances against textbook values and their own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.statistics.distances import (
    category_distances,
    category_statistic,
    chi_square,
    deciles,
    jensen_shannon,
    kolmogorov_smirnov,
    number_distances,
    number_statistic,
    population_stability_index,
    total_variation,
)

counts = st.lists(st.integers(0, 500), min_size=5, max_size=5).map(lambda x: np.array(x, np.int64))


def test_psi_of_a_worked_example():
    reference, live = np.array([100_000, 100_000, 200_000]), np.array([200_000, 100_000, 100_000])
    expected = (0.5 - 0.25) * np.log(0.5 / 0.25) + (0.25 - 0.5) * np.log(0.25 / 0.5)
    assert population_stability_index(reference, live) == pytest.approx(expected, rel=1e-4)


def test_jensen_shannon_of_disjoint_samples_is_one():
    assert jensen_shannon(np.array([10**9, 0]), np.array([0, 10**9])) == pytest.approx(1, abs=1e-6)


def test_kolmogorov_smirnov_agrees_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 20, 400), rng.integers(3, 22, 300)
    cells = [np.bincount(x, minlength=23) for x in (a, b)]
    for direction, alternative in (("both", "two-sided"), ("up", "greater"), ("down", "less")):
        expected = stats.ks_2samp(a, b, alternative=alternative).statistic
        assert kolmogorov_smirnov(*cells, direction) == pytest.approx(expected)


def test_chi_square_agrees_with_scipy():
    reference, live = np.array([120, 30, 50, 0]), np.array([20, 15, 9, 0])
    expected = stats.chi2_contingency(np.stack([reference, live])[:, :3], correction=False)
    assert chi_square(reference, live) == (pytest.approx(expected.statistic), expected.dof)


def test_direction_tells_larger_from_smaller():
    low, high = np.array([80, 10, 10, 0, 0]), np.array([10, 10, 80, 0, 0])
    assert number_statistic(low, high, "up") == pytest.approx(0.7)
    assert number_statistic(low, high, "down") == 0
    assert number_statistic(high, low, "down") == pytest.approx(0.7)
    assert number_statistic(low, high, "both") == pytest.approx(0.7)


@pytest.mark.parametrize("direction", ["both", "up", "down"])
def test_missing_cells_count_whichever_way(direction):
    before, after = np.array([50, 50, 0, 0]), np.array([25, 25, 50, 0])
    assert number_statistic(before, after, direction) == pytest.approx(0.5)
    assert number_distances(before, after, direction).nulls == pytest.approx(0.5)


def test_new_values_are_told_apart():
    before, after = np.array([90, 10, 0, 0, 0, 0]), np.array([60, 10, 0, 30, 0, 0])
    found = category_distances(before, after)
    assert found.new == pytest.approx(0.3)
    assert found.statistic == pytest.approx(0.3)


def test_deciles_pool_fine_bins_and_respect_ties():
    reference = np.array([25] * 40 + [7, 3])
    pooled = deciles(reference, reference)
    assert pooled.tolist() == [100] * 10 + [7, 3]
    tied = np.array([600, 200, 200, 0, 0])
    assert deciles(tied, tied).tolist() == [600, 200, 200, 0, 0]


@given(counts, counts)
def test_distances_are_bounded_and_symmetric(a, b):
    assert 0 <= category_statistic(a, b) <= 1 + 1e-12
    assert category_statistic(a, b) == pytest.approx(category_statistic(b, a))
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a))
    assert 0 <= jensen_shannon(a, b) <= 1
    assert population_stability_index(a, b) >= -1e-12
    assert kolmogorov_smirnov(a, b, "both") <= total_variation(a, b) + 1e-12
    both = max(kolmogorov_smirnov(a, b, "up"), kolmogorov_smirnov(a, b, "down"))
    assert kolmogorov_smirnov(a, b, "both") == pytest.approx(both)


@given(counts)
def test_no_distance_to_oneself(a):
    found = number_distances(a, a, "both")
    assert (found.statistic, found.nulls) == (0, 0)
    assert found.psi == pytest.approx(0)
    assert found.chi_square == pytest.approx(0)


def test_nothing_seen_is_no_distance():
    none = np.zeros(5, np.int64)
    found = number_distances(np.array([5, 5, 5, 0, 0]), none, "both")
    assert (found.statistic, found.rows) == (0, 0)
