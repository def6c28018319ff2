"""Drift statistics against definitions and independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from features.profiles.reference_profile import Bins
from monitoring.statistics.drift_statistics import SMOOTHING, STATISTICS, ColumnStatistics
from tests.factories.monitoring.cells import CATEGORY, measure_one, number_column, sampled_column, summarize

counts = st.lists(st.integers(0, 300), min_size=7, max_size=7).map(lambda x: np.array(x, np.int64))


@given(counts, counts)
def test_jensen_shannon_agrees_with_scipy(a, b):
    expected = jensenshannon(a + SMOOTHING, b + SMOOTHING, base=2)
    assert measure_one(CATEGORY, a, b)["jensen_shannon"] == pytest.approx(expected, abs=1e-7)


@given(counts, counts)
def test_chi_square_agrees_with_scipy(a, b):
    table = np.stack([a, b])
    if (table.sum(axis=1) == 0).any():
        assert measure_one(CATEGORY, a, b)["chi_square"] == 0
    else:
        expected = stats.chi2_contingency(table[:, table.sum(axis=0) > 0], correction=False).statistic
        assert measure_one(CATEGORY, a, b)["chi_square"] == pytest.approx(expected)


def test_measure_of_many_pairs_equals_one_by_one():
    rng = np.random.default_rng(5)
    reference, live = rng.integers(0, 50, (2, 9, 12))
    column = number_column(reference.sum(axis=0))
    many = column.measure(reference, live)
    for i in range(len(many)):
        assert many[i] == pytest.approx(list(measure_one(column, reference[i], live[i]).values()))


def test_statistics_of_a_column_fit_its_kind_and_direction():
    cells = np.array([5, 5, 5, 0, 0])
    assert number_column(cells).names == tuple(one.name for one in STATISTICS)
    assert number_column(cells, "up").names == ("kolmogorov_smirnov", "wasserstein", "van_der_waerden")
    assert CATEGORY.names == ("psi", "jensen_shannon", "chi_square")


def test_tenths_pool_fine_bins_and_respect_ties():
    assert number_column(np.array([25] * 40 + [7, 3])).tenths.tolist() == np.repeat(np.arange(10), 4).tolist()
    assert number_column(np.array([600, 200, 200, 0, 0])).tenths.tolist() == [0, 1, 2]


def test_wasserstein_cuts_values_off_at_the_edges():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300), rng.normal(0.4, 1.3, 200)
    bins, cells, column, summary = sampled_column(a)
    live = bins.count_number(summarize(b))
    # Both samples, each value raised to the edge above it.
    edges = np.array(bins.edges)
    raised = [edges[np.minimum(np.searchsorted(edges, x), len(edges) - 1)] for x in (a, b)]
    expected = stats.wasserstein_distance(*raised) / summary.std
    assert measure_one(column, cells, live)["wasserstein"] == pytest.approx(expected)


def test_normal_scores_are_those_of_the_reference_quantiles():
    rng = np.random.default_rng(2)
    a = rng.normal(size=4_000)
    bins, cells, column, _ = sampled_column(np.exp(a))
    normal = rng.normal(size=200_000)
    which = np.searchsorted(stats.norm.ppf(np.cumsum(cells[:-2])[:-1] / cells.sum()), normal)
    for power in (1, 2):
        means = np.bincount(which, weights=normal**power) / np.bincount(which)
        assert column.scores[:, power - 1] == pytest.approx(means, abs=0.05)
    # For any shape of the column: scores depend on ranks only.
    live = bins.count_number(summarize(np.exp(rng.normal(0.5, 1.0, 4_000))))
    assert measure_one(column, cells, live)["van_der_waerden"] == pytest.approx(0.5, abs=0.05)
    widened = bins.count_number(summarize(np.exp(rng.normal(0.0, 1.3, 4_000))))
    statistics = measure_one(column, cells, widened)
    assert statistics["klotz"] > 0.3 > 0.1 > statistics["van_der_waerden"]


def test_psi_adds_half_a_row_to_each_cell():
    # Shares of 3/4 and 1/4 against 1/4 and 3/4.
    assert measure_one(CATEGORY, np.array([1, 0]), np.array([0, 1]))["psi"] == pytest.approx(np.log(3))


@pytest.mark.parametrize(("direction", "expected"), [("both", 1.0), ("up", 1.0), ("down", 0.0)])
def test_ordered_statistics_of_larger_values_are_zero_downward(direction, expected):
    reference, live = np.array([8, 0, 0, 0, 0]), np.array([0, 0, 8, 0, 0])
    statistics = measure_one(number_column(np.array([8, 8, 8, 0, 0]), direction), reference, live)
    # From below the first of two edges to above the second, one standard deviation apart.
    assert statistics["wasserstein"] == statistics["kolmogorov_smirnov"] == expected
    assert (statistics["van_der_waerden"] > 0) == bool(expected)


@pytest.mark.parametrize("std", [0.0, np.nan, np.inf])
def test_widths_without_a_spread_are_those_of_the_edges(std):
    bins, cells = Bins(edges=(1.0, 3.0, 7.0)), np.array([5, 5, 5, 5, 0, 0])
    assert ColumnStatistics.of_number(bins, cells, std).widths.tolist() == [2, 4, 0]
    assert ColumnStatistics.of_number(bins, cells, 2.0).widths.tolist() == [1, 2, 0]


def test_sample_without_values_has_no_ordered_statistic():
    cells, bare = np.array([5, 5, 5, 0, 0]), np.array([0, 0, 0, 5, 0])
    for pair in ((cells, bare), (bare, cells)):
        statistics = measure_one(number_column(cells), *pair)
        assert [statistics[one.name] for one in STATISTICS if one.ordered] == [0, 0, 0, 0]


def test_normal_scores_of_two_halves_are_the_half_normal_mean():
    scores = number_column(np.array([7, 7, 0, 0])).scores
    assert scores == pytest.approx(np.array([[-np.sqrt(2 / np.pi), 1], [np.sqrt(2 / np.pi), 1]]))
