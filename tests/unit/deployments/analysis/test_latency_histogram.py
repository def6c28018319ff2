"""Quantiles of latencies: bounds that hold at every look, from a histogram of bounded size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deployments.analysis.latency_histogram import LatencyHistogram, upper_edge

times = st.lists(st.floats(1e-6, 1e8), max_size=60)


@given(times, times)
def test_they_merge_as_if_taken_together(a: list[float], b: list[float]) -> None:
    assert LatencyHistogram.from_values(np.array(a)) + LatencyHistogram.from_values(
        np.array(b)
    ) == LatencyHistogram.from_values(np.array(a + b))


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_a_quantile_is_known_to_the_width_of_a_bin(values: list[float], probability: float) -> None:
    true = float(np.quantile(values, probability, method="inverted_cdf"))
    found = LatencyHistogram.from_values(np.array(values)).quantile(probability)
    assert true * (1 - 1e-9) <= found <= true * 2.0 ** (1 / 16) * (1 + 1e-9)


def test_what_lies_beyond_the_bins_is_counted_in_the_outermost() -> None:
    seen = LatencyHistogram.from_values(np.array([1e-9, 0.0, 1e12]))
    assert (seen.n, len(seen.counts)) == (3, 2)
    assert seen.quantile(0.99) == math.inf
    assert upper_edge(-10_000) == 0.0


def test_nothing_is_known_of_no_observations() -> None:
    assert (LatencyHistogram().lower_bound(0.95, 0.05), LatencyHistogram().upper_bound(0.95, 0.05)) == (0.0, math.inf)
    assert LatencyHistogram().quantile(0.5) == 0.0


@pytest.mark.parametrize("probability", [0.5, 0.95])
def test_the_true_quantile_seldom_leaves_its_bounds_though_they_are_looked_at_often(probability: float) -> None:
    chance, alpha, runs = np.random.default_rng(0), 0.05, 400
    true = float(stats.lognorm(0.7).ppf(probability))
    below = above = 0
    for _ in range(runs):
        seen, looks = LatencyHistogram(), []
        for _ in range(30):
            seen += LatencyHistogram.from_values(chance.lognormal(0.0, 0.7, 50))
            looks.append((seen.lower_bound(probability, alpha), seen.upper_bound(probability, alpha)))
        below += any(lower > true for lower, _ in looks)
        above += any(upper < true for _, upper in looks)
    allowed = stats.binom.ppf(0.999, runs, alpha)
    assert below <= allowed
    assert above <= allowed


def test_the_bounds_close_in_on_the_quantile() -> None:
    chance = np.random.default_rng(1)
    true = float(stats.lognorm(0.7).ppf(0.95))
    few, many = (LatencyHistogram.from_values(chance.lognormal(0.0, 0.7, n)) for n in (300, 30_000))
    assert few.lower_bound(0.95, 0.01) < true < few.upper_bound(0.95, 0.01)
    assert 0.85 * true < many.lower_bound(0.95, 0.01) < true < many.upper_bound(0.95, 0.01) < 1.15 * true
