"""Quantiles of latencies, with bounds that hold at all times, from a histogram of bounded size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deployments.analysis.latency_histogram import LatencyHistogram, upper_edge

times = st.lists(st.floats(1e-6, 1e8), max_size=60)


@given(times, times)
def test_latency_histogram_merged_equals_one_of_all_values(a: list[float], b: list[float]) -> None:
    assert LatencyHistogram.from_values(np.array(a)) + LatencyHistogram.from_values(
        np.array(b)
    ) == LatencyHistogram.from_values(np.array(a + b))


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_quantile_is_exact_to_the_width_of_a_bin(values: list[float], probability: float) -> None:
    true = float(np.quantile(values, probability, method="inverted_cdf"))
    quantile = LatencyHistogram.from_values(np.array(values)).quantile(probability)
    assert true * (1 - 1e-9) <= quantile <= true * 2.0 ** (1 / 16) * (1 + 1e-9)


def test_latency_histogram_beyond_the_bins_counts_in_the_outermost() -> None:
    histogram = LatencyHistogram.from_values(np.array([1e-9, 0.0, 1e12]))
    assert (histogram.n, len(histogram.counts)) == (3, 2)
    assert histogram.quantile(0.99) == math.inf
    assert upper_edge(-10_000) == 0.0


def test_latency_histogram_without_values_has_trivial_bounds() -> None:
    assert (LatencyHistogram().lower_bound(0.95, 0.05), LatencyHistogram().upper_bound(0.95, 0.05)) == (0.0, math.inf)
    assert LatencyHistogram().quantile(0.5) == 0.0


@pytest.mark.long
@pytest.mark.parametrize("probability", [0.5, 0.95])
def test_bounds_of_a_quantile_keep_alpha_over_time(probability: float) -> None:
    chance, alpha, runs = np.random.default_rng(0), 0.05, 400
    true = float(stats.lognorm(0.7).ppf(probability))
    below = above = 0
    for _ in range(runs):
        histogram, looks = LatencyHistogram(), []
        for _ in range(30):
            histogram += LatencyHistogram.from_values(chance.lognormal(0.0, 0.7, 50))
            looks.append((histogram.lower_bound(probability, alpha), histogram.upper_bound(probability, alpha)))
        below += any(lower > true for lower, _ in looks)
        above += any(upper < true for _, upper in looks)
    allowed = stats.binom.ppf(0.999, runs, alpha)
    assert below <= allowed
    assert above <= allowed


def test_bounds_of_a_quantile_narrow() -> None:
    chance = np.random.default_rng(1)
    true = float(stats.lognorm(0.7).ppf(0.95))
    few, many = (LatencyHistogram.from_values(chance.lognormal(0.0, 0.7, n)) for n in (300, 30_000))
    assert few.lower_bound(0.95, 0.01) < true < few.upper_bound(0.95, 0.01)
    assert 0.85 * true < many.lower_bound(0.95, 0.01) < true < many.upper_bound(0.95, 0.01) < 1.15 * true


@pytest.mark.parametrize(("n", "bounded"), [(6, False), (7, True)])
def test_bounds_of_the_median_need_seven_equal_observations(n: int, bounded: bool) -> None:
    # All n above the median: the e-value is (2**(n + 1) - 1) / (n + 1), first beyond 20 at n = 7.
    histogram = LatencyHistogram.from_values(np.full(n, 8.0))
    bounds = (histogram.lower_bound(0.5, 0.05), histogram.upper_bound(0.5, 0.05))
    assert bounds == ((pytest.approx(8.0 * 2.0 ** (-1 / 16)), 8.0) if bounded else (0.0, math.inf))
