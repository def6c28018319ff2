"""Distances against textbook values and their own laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.statistics.distances import Distances, measure_distances
from tests.factories.monitoring.cells import CATEGORY, number_column

counts = st.lists(st.integers(0, 500), min_size=5, max_size=5).map(lambda x: np.array(x, np.int64))
categories = st.lists(st.integers(0, 500), min_size=7, max_size=7).map(lambda x: np.array(x, np.int64))


def compare_numbers(reference: np.ndarray, live: np.ndarray, direction: str = "both") -> Distances:
    return measure_distances(number_column(reference, direction), reference, live)


def compare_categories(reference: np.ndarray, live: np.ndarray) -> Distances:
    return measure_distances(CATEGORY, reference, live)


def test_psi_of_worked_example_matches():
    reference, live = np.array([100_000, 100_000, 200_000, 0, 0]), np.array([200_000, 100_000, 100_000, 0, 0])
    expected = (0.5 - 0.25) * np.log(0.5 / 0.25) + (0.25 - 0.5) * np.log(0.25 / 0.5)
    assert compare_categories(reference, live).psi == pytest.approx(expected, rel=1e-3)


def test_jensen_shannon_of_disjoint_samples_is_one():
    distances = compare_categories(np.array([10**9, 0, 0, 0, 0, 0]), np.array([0, 10**9, 0, 0, 0, 0]))
    assert distances.jensen_shannon == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("direction", "alternative"), [("both", "two-sided"), ("up", "greater"), ("down", "less")])
def test_distance_of_numbers_agrees_with_scipy(direction, alternative):
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 20, 400), rng.integers(3, 22, 300)
    cells = [np.append(np.bincount(x, minlength=23), [0, 0]) for x in (a, b)]
    expected = stats.ks_2samp(a, b, alternative=alternative).statistic
    assert compare_numbers(*cells, direction).statistic == pytest.approx(expected)


def test_chi_square_agrees_with_scipy():
    reference, live = np.array([120, 30, 50, 0, 0, 0]), np.array([20, 15, 9, 0, 0, 0])
    expected = stats.chi2_contingency(np.stack([reference, live])[:, :3], correction=False)
    distances = compare_categories(reference, live)
    assert (distances.chi_square, distances.freedom) == (pytest.approx(expected.statistic), expected.dof)


def test_direction_separates_larger_from_smaller():
    low, high = np.array([80, 10, 10, 0, 0]), np.array([10, 10, 80, 0, 0])
    assert compare_numbers(low, high, "up").statistic == pytest.approx(0.7)
    assert compare_numbers(low, high, "down").statistic == 0
    assert compare_numbers(high, low, "down").statistic == pytest.approx(0.7)
    assert compare_numbers(low, high, "both").statistic == pytest.approx(0.7)


@pytest.mark.parametrize("direction", ["both", "up", "down"])
def test_missing_cells_count_in_every_direction(direction):
    before, after = np.array([50, 50, 0, 0]), np.array([25, 25, 50, 0])
    distances = compare_numbers(before, after, direction)
    assert distances.statistic == pytest.approx(0.5)
    assert distances.nulls == pytest.approx(0.5)


def test_new_values_have_their_own_share():
    before, after = np.array([90, 10, 0, 0, 0, 0]), np.array([60, 10, 0, 30, 0, 0])
    distances = compare_categories(before, after)
    assert distances.new == pytest.approx(0.3)
    assert distances.statistic == pytest.approx(0.3)


@given(categories, categories)
def test_distances_of_categories_are_bounded_and_symmetric(a, b):
    distances, reverse = compare_categories(a, b), compare_categories(b, a)
    assert 0 <= distances.statistic <= 1 + 1e-12
    assert distances.statistic == pytest.approx(reverse.statistic)
    assert distances.jensen_shannon == pytest.approx(reverse.jensen_shannon)
    assert 0 <= distances.jensen_shannon <= 1
    assert distances.psi >= -1e-12


@given(counts, counts)
def test_distance_of_numbers_is_the_larger_direction_and_at_most_total_variation(a, b):
    both, up, down = (compare_numbers(a, b, direction).statistic for direction in ("both", "up", "down"))
    assert both == pytest.approx(max(up, down))
    n, m = a[:-2].sum(), b[:-2].sum()
    total_variation = np.abs(a[:-2] / n - b[:-2] / m).sum() / 2 if n and m else 0.0
    trailing = np.abs(a[-2:] / a.sum() - b[-2:] / b.sum()).max() if a.sum() and b.sum() else 0.0
    assert both <= max(total_variation, trailing) + 1e-12


@given(counts)
def test_distance_to_the_same_sample_is_zero(a):
    distances = compare_numbers(a, a)
    assert (distances.statistic, distances.nulls) == (0, 0)
    assert distances.psi == pytest.approx(0)
    assert distances.chi_square == pytest.approx(0)


def test_empty_sample_has_no_distance():
    none = np.zeros(5, np.int64)
    distances = compare_numbers(np.array([5, 5, 5, 0, 0]), none)
    assert (distances.statistic, distances.rows, distances.chi_square, distances.freedom) == (0, 0, 0, 0)


def test_sample_of_one_row_has_its_distance():
    assert compare_numbers(np.array([5, 5, 0, 0]), np.array([0, 1, 0, 0])).statistic == pytest.approx(0.5)
    distances = compare_categories(np.array([0, 0, 0, 1, 0]), np.array([1, 0, 0, 1, 0]))
    assert (distances.nulls, distances.statistic) == (-0.5, 0.5)
