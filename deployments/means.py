"""Asymptotic confidence sequences for a mean, of independent rows or of rows that come in clusters. Pure.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), 2024: Robbins' normal mixture in its one-sided form (Proposition B.1), sharpest near a
chosen number of observations.

Rows of one key (a user, a device) resemble one another: their sum varies more than that of as many strangers. Its
variance is estimated by clusters, from the sums of the keys (Liang, Zeger, "Longitudinal data analysis using
generalized linear models", Biometrika 73(1), 1986), and that variance is the clock on which the mixture runs: rows
count ``Moments.design_effect`` times. The bound stays valid, asymptotically in the number of keys, as long as rows of
one key are not negatively related: then the sum's increments have covariances >= 0, at equal variance it stays closer
to its past than Brownian motion does, and by Slepian's inequality ("The one-sided barrier problem for Gaussian noise",
1962) it crosses a boundary less often. Where each key comes once the design effect is 1, and nothing changes.
"""

from __future__ import annotations

import math

from deployments.moments import Moments

_TUNED_ALPHA = 0.05


def lower_bound(excess: Moments, alpha: float, optimum: int) -> float:
    """Lower limit of a one-sided confidence sequence for the mean of ``excess``; -inf without observations."""
    return excess.mean - _width(excess, alpha, optimum)


def upper_bound(excess: Moments, alpha: float, optimum: int) -> float:
    """The mirror image of lower_bound."""
    return excess.mean + _width(excess, alpha, optimum)


def _width(excess: Moments, alpha: float, optimum: int) -> float:
    if not excess.n:
        return math.inf
    # Section 3.5 of the same paper: the mixture's precision that is sharpest at ``optimum`` observations. Any precision
    # is valid; one for every alpha makes a stricter bound the wider one at any count.
    rho2 = (-2.0 * math.log(_TUNED_ALPHA) + math.log(-2.0 * math.log(_TUNED_ALPHA)) + 1.0) / optimum
    t = excess.n * excess.design_effect * rho2 + 1.0
    log_term = math.log1p(math.sqrt(t) / (2.0 * alpha))
    return math.sqrt(excess.variance * 2.0 * t / (excess.n**2 * rho2) * log_term)
