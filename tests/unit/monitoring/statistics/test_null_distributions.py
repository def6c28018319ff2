"""Null distributions by draws: exact laws, textbook values, and false alarms at the asked rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from features.profiles.column_sketches import NumberSummary
from features.profiles.reference_profile import Bins
from monitoring.statistics.batched_statistics import Battery
from monitoring.statistics.column_tests import RANK_ERROR, rank_error
from monitoring.statistics.distances import chi_square, jensen_shannon, kolmogorov_smirnov, population_stability_index
from monitoring.statistics.null_distributions import DRAWS, Tail, by_sampling, by_variation, drawn

counts = st.lists(st.integers(0, 300), min_size=7, max_size=7).map(lambda x: np.array(x, np.int64))


def summary(values: np.ndarray) -> NumberSummary:
    made = NumberSummary()
    made.add(values)
    return made


def most_false_alarms(tests: int, alpha: float) -> int:
    """More than these happen once in ten thousand runs of this test, if the rate is ``alpha``."""
    return int(stats.binom.ppf(1 - 1e-4, tests, alpha))


def number(reference: np.ndarray) -> tuple[Bins, np.ndarray, Battery, NumberSummary]:
    told = summary(reference)
    bins = Bins.for_number(told)
    cells = bins.count_number(told)
    return bins, cells, Battery.of_number(bins, cells, told.std), told


@given(counts, counts)
def test_many_at_once_agree_with_one_by_one(a, b):
    found = dict(zip(Battery().names, Battery().measure(a[None], b[None])[0], strict=True))
    assert found["psi"] == pytest.approx(population_stability_index(a, b))
    assert found["jensen_shannon"] == pytest.approx(jensen_shannon(a, b))
    assert found["chi_square"] == pytest.approx(chi_square(a, b)[0])


def test_wasserstein_is_that_of_values_cut_off_at_the_edges():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=300), rng.normal(0.4, 1.3, 200)
    bins, cells, battery, told = number(a)
    live = bins.count_number(summary(b))
    found = dict(zip(battery.names, battery.measure(cells[None], live[None])[0], strict=True))
    # Both samples, each value raised to the edge above it.
    edges = np.array(bins.edges)
    raised = [edges[np.minimum(np.searchsorted(edges, x), len(edges) - 1)] for x in (a, b)]
    assert found["wasserstein"] == pytest.approx(stats.wasserstein_distance(*raised) / told.std)
    assert found["kolmogorov_smirnov"] == pytest.approx(kolmogorov_smirnov(cells[:-2], live[:-2], "both"))


def test_normal_scores_are_those_of_the_reference_quantiles():
    rng = np.random.default_rng(2)
    a = rng.normal(size=4_000)
    bins, cells, battery, _ = number(np.exp(a))
    drawn_scores = rng.normal(size=200_000)
    which = np.searchsorted(stats.norm.ppf(np.cumsum(cells[:-2])[:-1] / cells.sum()), drawn_scores)
    for power in (1, 2):
        means = np.bincount(which, weights=drawn_scores**power) / np.bincount(which)
        assert battery.scores[:, power - 1] == pytest.approx(means, abs=0.05)
    # Whatever the shape of the column: scores depend on ranks alone.
    live = bins.count_number(summary(np.exp(rng.normal(0.5, 1.0, 4_000))))
    found = dict(zip(battery.names, battery.measure(cells[None], live[None])[0], strict=True))
    assert found["van_der_waerden"] == pytest.approx(0.5, abs=0.05)
    widened = bins.count_number(summary(np.exp(rng.normal(0.0, 1.3, 4_000))))
    found = dict(zip(battery.names, battery.measure(cells[None], widened[None])[0], strict=True))
    assert found["klotz"] > 0.3 > 0.1 > found["van_der_waerden"]


def test_a_spread_that_grew_on_some_rows_is_seen():
    """Where Kolmogorov-Smirnov sees nothing: 0.7 N(0, 1) + 0.3 N(0, 1.5) differs by 0.03 in share at most."""
    strongest = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        bins, cells, battery, _ = number(rng.normal(size=20_000))
        values = rng.normal(size=1_000) * np.where(rng.random(1_000) < 0.3, 1.5, 1.0)
        chance = by_sampling(battery, cells, bins.count_number(summary(values)), rng)
        strongest.append(chance.strongest)
        assert chance.p_value < 0.01
        assert chance.by_statistic["kolmogorov_smirnov"] > chance.by_statistic["klotz"]
    assert strongest.count("klotz") >= 6


@pytest.mark.parametrize("values", [np.zeros(2_000), np.arange(2_000.0)], ids=["constant", "many"])
def test_a_window_without_values_is_told_by_what_is_missing(values):
    bins, cells, battery, _ = number(values)
    live = np.append(np.zeros(len(bins.edges) + 1, np.int64), [20, 0])
    cells = cells + np.append(np.zeros(len(bins.edges) + 1, np.int64), [500, 0])
    chance = by_sampling(battery, cells, live, np.random.default_rng(0))
    assert chance.by_statistic["nulls"] < 1e-10
    assert all(chance.by_statistic[name] > 0.5 for name in ("kolmogorov_smirnov", "van_der_waerden", "klotz"))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_direction_counts_one_way_alone(direction):
    rng = np.random.default_rng(3)
    told = summary(rng.normal(size=5_000))
    bins = Bins.for_number(told)
    cells = bins.count_number(told)
    battery = Battery.of_number(bins, cells, told.std, direction)
    assert battery.names == ("kolmogorov_smirnov", "wasserstein", "van_der_waerden")
    moved = {
        way: bins.count_number(summary(rng.normal(0.3 * sign, 1.0, 2_000))) for way, sign in (("up", 1), ("down", -1))
    }
    for way, live in moved.items():
        assert (by_sampling(battery, cells, live, rng).p_value < 0.001) == (way == direction)


@pytest.mark.parametrize("rows", [100, 1_000])
def test_false_alarms_of_all_statistics_together(rows):
    found = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        bins, cells, battery, told = number(rng.gamma(2.0, size=3_000))
        live = summary(rng.gamma(2.0, size=rows))
        chance = by_sampling(battery, cells, bins.count_number(live), rng, (rank_error(told), rank_error(live)))
        found.append(chance.p_value)
    for alpha in (0.01, 0.05, 0.2):
        assert sum(p <= alpha for p in found) <= most_false_alarms(len(found), alpha)
    assert np.mean([p <= 0.2 for p in found]) >= 0.05, "a test that never alarms is none"


def test_errors_of_sketches_do_not_alarm():
    """A million rows by their expected cells, and errors as large as those of sketches."""
    rng, edges = np.random.default_rng(1), 39
    cells = np.append(np.full(40, 25_000), [0, 0])
    battery = Battery.of_number(Bins(edges=tuple(np.arange(edges))), cells, 10.0)
    alarms = {True: 0, False: 0}
    for _ in range(40):
        shared, own = rng.normal(), rng.normal(size=edges)
        below = np.cumsum(cells[:40])[:-1] + RANK_ERROR * 1e6 * (shared + own) / np.sqrt(2)
        live = np.append(np.diff(np.sort(below), prepend=0, append=1e6), [0, 0]).astype(np.int64)
        for known in alarms:
            errors = (0.0, RANK_ERROR if known else 0.0)
            alarms[known] += by_sampling(battery, cells, live, rng, errors).p_value <= 0.05
    assert alarms[True] <= most_false_alarms(40, 0.05)
    assert alarms[False] == 40


def test_sketch_errors_are_no_larger_than_assumed():
    ranks = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    errors = []
    for seed in range(60):
        whole = summary(np.empty(0))
        for part in np.array_split(np.random.default_rng(seed).permutation(20_000).astype(float), 8):
            whole.merge(summary(part))
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
    chance = by_sampling(Battery(), np.array(before), np.array(after), np.random.default_rng(0))
    assert min(chance.by_statistic["nulls"], chance.by_statistic["new"]) == pytest.approx(expected, rel=1e-6)


def test_the_tail_goes_on_beyond_the_draws_and_stays_on_the_quiet_side():
    draws = np.random.default_rng(2).chisquare(9, (DRAWS, 1))
    tail = Tail(draws)
    for quantile in (1e-4, 1e-6, 1e-8):
        p = tail.p_values(np.array([[stats.chi2.isf(quantile, 9)]]))[0, 0]
        assert quantile <= p <= quantile**0.5


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.lists(st.integers(0, 40), min_size=2, max_size=9))
def test_p_values_lie_in_range_and_fall(draws, found):
    p = Tail(np.array(draws, float)[:, None]).p_values(np.sort(np.array(found, float))[:, None])[:, 0]
    assert ((p > 0) & (p <= 1)).all()
    assert (np.diff(p) <= 1e-12).all()


def test_ordinary_variation_forgives_what_sampling_does_not():
    rng = np.random.default_rng(3)
    odds = np.exp(rng.normal(0, 0.4, (60, 3)))
    runs = np.stack([np.append(rng.multinomial(3_000, p / p.sum()), [0, 0, 0, 0]) for p in odds])
    whole, live = runs.sum(axis=0), runs[7] // 3
    assert by_sampling(Battery(), whole, live, rng).p_value < 1e-3
    assert by_variation(Battery(), whole, runs, live, rng).p_value > 0.05
    strange = np.array([0, 0, 500, 0, 500, 0, 0])
    assert by_variation(Battery(), whole, runs, strange, rng).p_value < 0.05


@given(st.integers(1, 200), st.integers(0, 9))
def test_draws_keep_their_rows_and_take_no_more_than_there_are(rows, seed):
    cells = np.array([200, 0, 7, 90])
    taken = drawn(cells, rows, 5, np.random.default_rng(seed))
    assert (taken.sum(axis=1) == rows).all()
    assert ((taken >= 0) & (taken <= cells)).all()


def test_nothing_seen_is_no_drift():
    none = np.zeros(7, np.int64)
    assert by_sampling(Battery(), np.arange(7), none, np.random.default_rng(0)).p_value == 1.0
