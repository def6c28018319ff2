"""Null distributions by draws: exact laws, textbook values, and false alarms at the requested rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from features.profiles.reference_profile import Bins
from monitoring.statistics.column_tests import RANK_ERROR, rank_error
from monitoring.statistics.drift_statistics import ColumnStatistics
from monitoring.statistics.null_distributions import (
    DRAWS,
    MIN_RUNS,
    MIN_TAIL_SCALE,
    DistanceNull,
    EmpiricalNull,
    draw_rows,
    fit_tail,
    permutation_test,
    reference_runs_test,
    tail_p_value,
)
from tests.factories.monitoring.cells import CATEGORY, sampled_column, summarize


def most_false_alarms(tests: int, alpha: float) -> int:
    """More than these happen once in ten thousand runs of this test, if the rate is ``alpha``."""
    return int(stats.binom.ppf(1 - 1e-4, tests, alpha))


def test_spread_that_grew_on_some_rows_is_detected():
    """Where Kolmogorov-Smirnov sees nothing: 0.7 N(0, 1) + 0.3 N(0, 1.5) differs by 0.03 in share at most."""
    strongest = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        bins, cells, column, _ = sampled_column(rng.normal(size=20_000))
        values = rng.normal(size=1_000) * np.where(rng.random(1_000) < 0.3, 1.5, 1.0)
        result = permutation_test(column, cells, bins.count_number(summarize(values)), rng)
        strongest.append(result.strongest)
        assert result.p_value < 0.01
        assert result.by_statistic["kolmogorov_smirnov"] > result.by_statistic["klotz"]
    assert strongest.count("klotz") >= 6


@pytest.mark.parametrize("values", [np.zeros(2_000), np.arange(2_000.0)], ids=["constant", "many"])
def test_window_without_values_is_detected_by_missing_cells(values):
    bins, cells, column, _ = sampled_column(values)
    live = np.append(np.zeros(len(bins.edges) + 1, np.int64), [20, 0])
    cells = cells + np.append(np.zeros(len(bins.edges) + 1, np.int64), [500, 0])
    result = permutation_test(column, cells, live, np.random.default_rng(0))
    assert result.by_statistic["nulls"] < 1e-10
    assert all(result.by_statistic[name] > 0.5 for name in ("kolmogorov_smirnov", "van_der_waerden", "klotz"))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_direction_counts_one_way_only(direction):
    rng = np.random.default_rng(3)
    bins, cells, column, _ = sampled_column(rng.normal(size=5_000), direction)
    assert column.names == ("kolmogorov_smirnov", "wasserstein", "van_der_waerden")
    moved = {
        way: bins.count_number(summarize(rng.normal(0.3 * sign, 1.0, 2_000))) for way, sign in (("up", 1), ("down", -1))
    }
    for way, live in moved.items():
        assert (permutation_test(column, cells, live, rng).p_value < 0.001) == (way == direction)


@pytest.mark.long
@pytest.mark.parametrize("rows", [100, 1_000])
def test_permutation_test_keeps_the_rate_of_false_alarms(rows):
    p_values = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        bins, cells, column, reference = sampled_column(rng.gamma(2.0, size=3_000))
        live = summarize(rng.gamma(2.0, size=rows))
        result = permutation_test(
            column, cells, bins.count_number(live), rng, (rank_error(reference), rank_error(live))
        )
        p_values.append(result.p_value)
    for alpha in (0.01, 0.05, 0.2):
        assert sum(p <= alpha for p in p_values) <= most_false_alarms(len(p_values), alpha)
    assert np.mean([p <= 0.2 for p in p_values]) >= 0.05, "a test that never alarms is none"


@pytest.mark.long
def test_permutation_test_tolerates_sketch_errors():
    """A million rows by their expected cells, and errors as large as those of sketches."""
    rng, edges = np.random.default_rng(1), 39
    cells = np.append(np.full(40, 25_000), [0, 0])
    column = ColumnStatistics.of_number(Bins(edges=tuple(np.arange(edges))), cells, 10.0)
    alarms = {True: 0, False: 0}
    for _ in range(40):
        shared, own = rng.normal(), rng.normal(size=edges)
        below = np.cumsum(cells[:40])[:-1] + RANK_ERROR * 1e6 * (shared + own) / np.sqrt(2)
        live = np.append(np.diff(np.sort(below), prepend=0, append=1e6), [0, 0]).astype(np.int64)
        for known in alarms:
            errors = (0.0, RANK_ERROR if known else 0.0)
            alarms[known] += permutation_test(column, cells, live, rng, errors).p_value <= 0.05
    assert alarms[True] <= most_false_alarms(40, 0.05)
    assert alarms[False] == 40


def test_sketch_errors_do_not_exceed_the_assumed_ones():
    ranks = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    errors = []
    for seed in range(60):
        whole = summarize(np.empty(0))
        for part in np.array_split(np.random.default_rng(seed).permutation(20_000).astype(float), 8):
            whole.merge(summarize(part))
        errors.append(whole.cdf(ranks * 20_000) - ranks)
    assert np.std(errors) <= RANK_ERROR


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # missing: twice Fisher's one-sided test; new values: once.
        ([90, 0, 0, 10, 0], [60, 0, 0, 40, 0], 2 * stats.fisher_exact([[40, 60], [10, 90]], "greater").pvalue),
        ([100, 0, 0, 0, 0], [97, 0, 3, 0, 0], stats.fisher_exact([[3, 97], [0, 100]], "greater").pvalue),
    ],
)
def test_counts_have_fishers_p_values(before, after, expected):
    result = permutation_test(CATEGORY, np.array(before), np.array(after), np.random.default_rng(0))
    assert min(result.by_statistic["nulls"], result.by_statistic["new"]) == pytest.approx(expected, rel=1e-6)


def test_tail_extrapolates_conservatively_beyond_the_draws():
    draws = np.random.default_rng(2).chisquare(9, (DRAWS, 1))
    tail = EmpiricalNull(draws)
    for quantile in (1e-4, 1e-6, 1e-8):
        p = tail.p_values(np.array([[stats.chi2.isf(quantile, 9)]]))[0, 0]
        assert quantile <= p <= quantile**0.5


@pytest.mark.parametrize("draws", [12, 20, 100])
@pytest.mark.parametrize("level", [0.01, 0.001, 0.0001])
def test_tail_of_an_exponential_keeps_levels_far_below_one_in_the_number_of_draws(draws, level):
    """Exactly: the mean, over fitted tails, of the probability that a new draw has a p-value of at most the level."""
    samples = np.random.default_rng(0).exponential(size=(draws, 200_000))
    start, scale, points = fit_tail(samples)
    # Where tail_p_value is the level.
    excess = points * (((points + 1) / (draws + 1) / level) ** (1 / points) - 1)
    assert tail_p_value(excess, points, draws) == pytest.approx(level)
    chances = np.exp(-(start + scale * excess))
    assert chances.mean() == pytest.approx(level, abs=4 * chances.std() / np.sqrt(200_000))
    normal = np.random.default_rng(1).normal(size=(draws, 20_000))
    start, scale, _ = fit_tail(normal)
    assert stats.norm.sf(start + scale * excess).mean() < level


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.lists(st.integers(0, 40), min_size=2, max_size=9))
def test_p_values_are_in_range_and_fall_with_the_statistic(draws, statistics):
    p = EmpiricalNull(np.array(draws, float)[:, None]).p_values(np.sort(np.array(statistics, float))[:, None])[:, 0]
    assert ((p > 0) & (p <= 1)).all()
    assert (np.diff(p) <= 1e-12).all()


def test_reference_runs_test_tolerates_ordinary_variation():
    rng = np.random.default_rng(3)
    odds = np.exp(rng.normal(0, 0.4, (60, 3)))
    runs = np.stack([np.append(rng.multinomial(3_000, p / p.sum()), [0, 0, 0, 0]) for p in odds])
    whole, live = runs.sum(axis=0), runs[7] // 3
    assert permutation_test(CATEGORY, whole, live, rng).p_value < 1e-3
    assert reference_runs_test(CATEGORY, whole, runs, live, rng).p_value > 0.05
    strange = np.array([0, 0, 500, 0, 500, 0, 0])
    assert reference_runs_test(CATEGORY, whole, runs, strange, rng).p_value < 0.05


@given(st.integers(1, 200), st.integers(0, 9))
def test_draw_rows_draws_as_many_rows_without_replacement(rows, seed):
    cells = np.array([200, 0, 7, 90])
    counts = draw_rows(cells, rows, 5, np.random.default_rng(seed))
    assert (counts.sum(axis=1) == rows).all()
    assert ((counts >= 0) & (counts <= cells)).all()


def test_empty_live_sample_has_p_value_one():
    none = np.zeros(7, np.int64)
    assert permutation_test(CATEGORY, np.arange(7), none, np.random.default_rng(0)).p_value == 1.0


NO_RUNS = np.empty(0)
HUGE = 10**9
"""So many rows that sampling moves no distance."""


@pytest.mark.parametrize(("direction", "sides"), [("up", 1), ("down", 1), ("both", 2)])
def test_distance_by_sampling_has_massarts_p_value(direction, sides):
    null = DistanceNull(NO_RUNS, NO_RUNS, np.empty(0), direction)
    # n m / (n + m) = 75: c exp(-2 s^2 75).
    assert null.p_value(0.2, 100, 300) == pytest.approx(sides * np.exp(-6))
    assert null.p_value(0.0, 100, 300) == 1.0
    assert null.threshold(0.01, 100, 300) == pytest.approx(np.sqrt(np.log(sides / 0.01) / 150))


def test_total_variation_by_sampling_is_measured_from_the_bound_of_its_mean():
    null = DistanceNull(NO_RUNS, NO_RUNS, np.array([0.5, 0.5]), "both")
    mean = 0.5 / np.sqrt(75)
    assert null.p_value(mean, 100, 300) == 1.0
    assert null.p_value(mean + 0.2, 100, 300) == pytest.approx(np.exp(-6))


def test_distance_without_rows_has_p_value_one():
    null = DistanceNull(np.full(MIN_RUNS, 0.1), np.full(MIN_RUNS, 50), np.empty(0), "up")
    assert null.p_value(1.0, 0, 100) == null.p_value(1.0, 100, 0) == 1.0


def test_distance_among_the_runs_has_a_conformal_p_value_and_a_tail_beyond():
    null = DistanceNull(np.arange(1, 20) / 20, np.full(19, 10**8), np.empty(0), "up")
    # The run at 0.5 is as far, with the nine beyond it.
    assert null.p_value(0.5, HUGE, HUGE) == pytest.approx(11 / 20)
    assert null.p_value(0.95, HUGE, HUGE) == pytest.approx(2 / 20)
    assert null.p_value(0.951, HUGE, HUGE) == pytest.approx(1 / 20)
    # The tail has nine runs, beyond 0.5, with a mean excess of 0.25.
    assert null.p_value(1.5, HUGE, HUGE) == pytest.approx(10 / 20 * (1 + 4 / 9) ** -9)
    # Of runs that share windows in threes, three are independent.
    null = DistanceNull(np.arange(1, 20) / 20, np.full(19, 10**8), np.empty(0), "up", overlap=3)
    assert null.p_value(5.5, HUGE, HUGE) == pytest.approx(10 / 20 * (1 + 20 / 3) ** -3)


def test_equal_runs_have_a_tail_of_the_smallest_scale():
    null = DistanceNull(np.full(19, 0.3), np.full(19, 10**8), np.empty(0), "up")
    assert null.p_value(0.3 + 10 * MIN_TAIL_SCALE, HUGE, HUGE) == pytest.approx(10 / 20 * (1 + 10 / 9) ** -9)
    assert pytest.approx(0.005) == MIN_TAIL_SCALE


def test_too_few_runs_leave_sampling():
    few, enough = (DistanceNull(np.full(n, 0.9), np.full(n, 10**8), np.empty(0), "up") for n in (11, 12))
    assert few.p_value(0.5, HUGE, HUGE) < 1e-100
    assert enough.p_value(0.5, HUGE, HUGE) == 1.0


def test_runs_with_more_rows_get_the_noise_of_the_live_run():
    null = DistanceNull(np.full(19, 0.3), np.full(19, 400), np.empty(0), "up")
    sigma = np.sqrt(1 / 100 - 1 / 400) / 2
    assert null.p_value(0.3, 100, HUGE) == pytest.approx((1 + 19 / 2) / 20)
    tail = 10 * (1 + 6 * sigma / (MIN_TAIL_SCALE + sigma) / 9) ** -9
    assert null.p_value(0.3 + 6 * sigma, 100, HUGE) == pytest.approx((tail + 19 * stats.norm.sf(6)) / 20)
    # A total variation also grows: its bound from 0.5 / sqrt(400) to 0.5 / sqrt(100).
    null = DistanceNull(np.full(19, 0.3), np.full(19, 400), np.array([0.5, 0.5]), "both")
    assert null.p_value(0.3 + 0.05 - 0.025, 100, HUGE) == pytest.approx((1 + 19 / 2) / 20)


def test_p_values_among_draws_are_ranks_up_to_the_tail():
    # The tail has ten draws beyond 89, with a mean excess of 5.5.
    null = EmpiricalNull(np.arange(1.0, 100.0)[:, None])
    p_values = null.p_values(np.array([[0.0], [50.0], [90.0], [90.5], [94.5], [99.0]]))[:, 0]
    tail = 0.11 * (1 + np.array([1.5, 5.5]) / 5.5 / 10) ** -10
    assert p_values == pytest.approx([1.0, 0.51, 0.11, *tail, 0.02])


def test_reference_runs_test_without_runs_or_rows_rejects_nothing():
    whole, none = np.arange(7), np.zeros(7, np.int64)
    for runs, live in ((np.empty((0, 7), np.int64), whole), (whole[None], none)):
        result = reference_runs_test(CATEGORY, whole, runs, live, np.random.default_rng(0))
        assert (result.p_value, result.by_statistic, result.strongest) == (1.0, {}, "")


@pytest.mark.parametrize("errors", [(0.01, 0.0), (0.0, 0.01), (0.006, 0.008)])
def test_rank_error_of_either_sketch_has_its_variance(errors):
    """Of two bins, so many rows that sampling is small: the difference at the one edge is normal with this variance."""
    reference = np.array([10**8, 10**8, 0, 0])
    column = ColumnStatistics.of_number(Bins(edges=(0.0,)), reference, 1.0)
    live = reference + np.array([3 * 10**6, -3 * 10**6, 0, 0])
    result = permutation_test(column, reference, live, np.random.default_rng(1), errors)
    # 1.5 standard deviations; three of the mean of 1,999 draws are 0.023.
    assert result.by_statistic["kolmogorov_smirnov"] == pytest.approx(2 * stats.norm.sf(1.5), abs=0.023)
    exact = permutation_test(column, reference, live, np.random.default_rng(1))
    assert exact.p_value < 1e-6
