"""Sequential tests on counts, valid at every look, and exact at any sample size. Pure.

Each is the log of an e-process: a bet against the null whose expected gain is at most zero while the null holds,
regardless of what happened before. By Ville's inequality it ever reaches log(1/alpha) with probability <= alpha.
Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4),
2023, section 3.

Counts need not be whole numbers: those of dependent requests are divided by their design effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from scipy import special

_BETS = np.geomspace(0.005, 0.95, 32)
"""Fractions of the capital to bet; the wealth is their average, so none has to be chosen."""
_RATIOS = np.geomspace(1.05, 1000.0, 48)
"""Factors by which the odds that an error is the challenger's may exceed what the null allows."""

Count = float | np.ndarray


def log_e_above(errors: Count, requests: Count, limit: float) -> Any:
    """Log e-value against "each request fails with probability at most ``limit``". Elementwise.

    The likelihood ratio, averaged over rates uniform on (limit, 1].
    """
    return _log_mixture(special.betaincc, errors, requests, limit) - math.log1p(-limit)


def log_e_below(errors: Count, requests: Count, limit: float) -> Any:
    """Log e-value against "with probability at least ``limit``", averaged over rates uniform on [0, limit)."""
    return _log_mixture(special.betainc, errors, requests, limit) - math.log(limit)


def log_e_multinomial(counts: np.ndarray, shares: np.ndarray, concentration: float) -> float:
    """Log e-value against "each key goes to variant i with probability shares[i]"; counts and shares [variants].

    Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, the multinomial test: the
    marginal likelihood under a Dirichlet(concentration * shares), over the likelihood under the shares.
    """
    prior = concentration * shares
    marginal = special.gammaln(concentration) - special.gammaln(concentration + counts.sum())
    marginal += (special.gammaln(prior + counts) - special.gammaln(prior)).sum()
    return float(marginal - special.xlogy(counts, shares).sum())


def log_e_rate_ratio(errors: Mapping[float, tuple[float, float]], margin: float) -> float:
    """Log e-value against "the challenger fails at most (1 + margin) times as often as the champion".

    Given an error, it is the challenger's with odds of share / (1 - share) times the ratio of the rates, however the
    rates themselves change with time: Lindon and Malek's test of time-inhomogeneous Bernoulli processes. Here it is
    one-sided, and averaged over ratios that hold for all shares, so that evidence from several shares adds up.

    Args:
        errors: Errors of the champion and of the challenger, by the challenger's share of requests.
        margin: Allowed excess of the challenger's error rate, as a fraction of the champion's.
    """
    growth = np.zeros_like(_RATIOS)
    for share, (champion, challenger) in errors.items():
        if share < 1.0:
            null = (1.0 + margin) * share / (1.0 - share)
            odds = null * _RATIOS
            growth += challenger * np.log(_RATIOS) - (champion + challenger) * np.log((1.0 + odds) / (1.0 + null))
    return _log_mean_exp(growth)


def log_wealth(cells: Iterable[tuple[float, float]]) -> float:
    """Log e-value against "the mean is at most 0", of values that are at least -1, given as (value, count) cells.

    Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86(1), 2024, section 4;
    the capital is spread over a grid of constant bets, so the order of the values does not matter.
    """
    growth = np.zeros_like(_BETS)
    for value, count in cells:
        growth += count * np.log1p(_BETS * value)
    return _log_mean_exp(growth)


def _log_mean_exp(growth: np.ndarray) -> float:
    most = float(growth.max())
    return most + math.log(float(np.exp(growth - most).mean()))


def _log_mixture(tail: Callable[..., Any], errors: Count, requests: Count, limit: float) -> Any:
    a, b = np.add(errors, 1.0), np.subtract(requests, errors) + 1.0
    null = special.xlogy(errors, limit) + special.xlog1py(np.subtract(requests, errors), -limit)
    with np.errstate(divide="ignore"):
        # The tail's mass may underflow to 0: no evidence, -inf.
        return special.betaln(a, b) + np.log(tail(a, b, limit)) - null
