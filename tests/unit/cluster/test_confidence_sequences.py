"""Confidence sequences are exact where they have a closed form: at the limit the mixture's wealth is 1 / alpha."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from scipy import integrate, stats

from cluster.confidence_sequences import half_width

ALPHAS = (0.05, 0.001)
OPTIMUM = 500


def _precision(optimum: int) -> float:
    """Section 3.5: the variance of the normal mixture that is nearly sharpest at ``optimum``."""
    return (-2.0 * math.log(0.05) + math.log(-2.0 * math.log(0.05)) + 1.0) / optimum


def _wealth(excess: float, variance: float, n: int, rho2: float, below: float) -> float:
    """Mean of exp(lambda * sum - lambda^2 * n * variance / 2) over normal lambda above ``below``."""
    sigma = math.sqrt(variance)
    prior = stats.norm(scale=math.sqrt(rho2) / sigma)

    def bet(rate: float) -> float:
        return math.exp(rate * n * excess - rate**2 * n * variance / 2.0 + prior.logpdf(rate))

    peak, spread = excess / (variance + variance / (n * rho2)), 1.0 / math.sqrt(n * variance + variance / rho2)
    low = max(below, peak - 12.0 * spread)
    return integrate.quad(bet, low, peak + 12.0 * spread, epsabs=0.0, epsrel=1e-10)[0] / prior.sf(below)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("n", "variance"), [(20, 0.25), (500, 4.0), (40_000, 1e-4)])
def test_two_sided_limit_is_where_the_wealth_is_one_over_alpha(n: int, variance: float, alpha: float) -> None:
    width = half_width(variance, n, alpha, OPTIMUM, sides=2)
    assert _wealth(width, variance, n, _precision(OPTIMUM), -math.inf) == pytest.approx(1.0 / alpha, rel=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [20, 500, 40_000])
def test_one_sided_limit_is_where_the_wealth_is_at_least_one_over_alpha(n: int, alpha: float) -> None:
    wealth = _wealth(half_width(1.0, n, alpha, OPTIMUM, sides=1), 1.0, n, _precision(OPTIMUM), 0.0)
    # Proposition B.1 bounds the normal distribution function from below, so its limit is a little too wide.
    assert 1.0 / alpha <= wealth <= 1.25 / alpha


def test_two_sided_limit_is_sharpest_at_its_optimum() -> None:
    widths = {optimum: half_width(1.0, OPTIMUM, 0.05, optimum, sides=2) for optimum in range(50, 5_000, 10)}
    assert widths[OPTIMUM] == pytest.approx(min(widths.values()), rel=1e-3)
    assert widths[OPTIMUM] < 0.95 * min(widths[50], widths[4_990])


@pytest.mark.parametrize("sides", [1, 2])
def test_limit_is_infinite_without_rows_and_shrinks_like_the_deviation(sides: Literal[1, 2]) -> None:
    assert half_width(1.0, 0, 0.05, OPTIMUM, sides) == math.inf
    one, scaled = (half_width(variance, 300, 0.05, OPTIMUM, sides) for variance in (1.0, 9.0))
    assert scaled == pytest.approx(3.0 * one)
    assert half_width(0.0, 300, 0.05, OPTIMUM, sides) == 0.0


@pytest.mark.parametrize("sides", [1, 2])
def test_design_effect_counts_as_variance_of_the_mean(sides: Literal[1, 2]) -> None:
    # n rows with design effect 4 are worth n / 4 rows of 4 times the weight: sum and its variance agree.
    rows = half_width(1.0, 400, 0.05, OPTIMUM, sides, design_effect=4.0)
    assert rows == pytest.approx(half_width(1.0, 1_600, 0.05, OPTIMUM, sides) * 4.0)
