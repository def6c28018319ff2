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
    EmpiricalNull,
    draw_rows,
    permutation_test,
    reference_runs_test,
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
        found = permutation_test(column, cells, bins.count_number(summarize(values)), rng)
        strongest.append(found.strongest)
        assert found.p_value < 0.01
        assert found.by_statistic["kolmogorov_smirnov"] > found.by_statistic["klotz"]
    assert strongest.count("klotz") >= 6


@pytest.mark.parametrize("values", [np.zeros(2_000), np.arange(2_000.0)], ids=["constant", "many"])
def test_window_without_values_is_detected_by_missing_cells(values):
    bins, cells, column, _ = sampled_column(values)
    live = np.append(np.zeros(len(bins.edges) + 1, np.int64), [20, 0])
    cells = cells + np.append(np.zeros(len(bins.edges) + 1, np.int64), [500, 0])
    found = permutation_test(column, cells, live, np.random.default_rng(0))
    assert found.by_statistic["nulls"] < 1e-10
    assert all(found.by_statistic[name] > 0.5 for name in ("kolmogorov_smirnov", "van_der_waerden", "klotz"))


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
        found = permutation_test(column, cells, bins.count_number(live), rng, (rank_error(reference), rank_error(live)))
        p_values.append(found.p_value)
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
    found = permutation_test(CATEGORY, np.array(before), np.array(after), np.random.default_rng(0))
    assert min(found.by_statistic["nulls"], found.by_statistic["new"]) == pytest.approx(expected, rel=1e-6)


def test_tail_extrapolates_conservatively_beyond_the_draws():
    draws = np.random.default_rng(2).chisquare(9, (DRAWS, 1))
    tail = EmpiricalNull(draws)
    for quantile in (1e-4, 1e-6, 1e-8):
        p = tail.p_values(np.array([[stats.chi2.isf(quantile, 9)]]))[0, 0]
        assert quantile <= p <= quantile**0.5


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.lists(st.integers(0, 40), min_size=2, max_size=9))
def test_p_values_are_in_range_and_fall_with_the_statistic(draws, found):
    p = EmpiricalNull(np.array(draws, float)[:, None]).p_values(np.sort(np.array(found, float))[:, None])[:, 0]
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
    taken = draw_rows(cells, rows, 5, np.random.default_rng(seed))
    assert (taken.sum(axis=1) == rows).all()
    assert ((taken >= 0) & (taken <= cells)).all()


def test_empty_live_sample_has_p_value_one():
    none = np.zeros(7, np.int64)
    assert permutation_test(CATEGORY, np.arange(7), none, np.random.default_rng(0)).p_value == 1.0
