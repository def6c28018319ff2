"""Asymptotic confidence sequences for a mean: limits that hold at all times, no matter how often they are read. Pure.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), 2024: Robbins' normal mixture, two-sided (theorem 2.2) or one-sided (proposition B.1),
sharpest near a chosen number of observations.
"""

from __future__ import annotations

import math
from typing import Literal

_TUNED_ALPHA = 0.05


def half_width(
    variance: float, n: int, alpha: float, optimum: int, sides: Literal[1, 2], design_effect: float = 1.0
) -> float:
    """Distance of a confidence limit from the mean.

    Args:
        variance: Population variance of the rows.
        n: Number of rows.
        alpha: Probability that the limit fails at any time.
        optimum: Number of rows at which the limit is sharpest.
        sides: 2 for an interval, 1 for a single limit.
        design_effect: Variance of the mean relative to that of independent rows (Kish).

    Returns:
        The distance; infinite without rows.
    """
    if not n:
        return math.inf
    # Section 3.5: the mixture's precision that is sharpest at ``optimum``. Any precision is valid; one for every alpha
    # makes a stricter bound the wider one at any count.
    rho2 = (-2.0 * math.log(_TUNED_ALPHA) + math.log(-2.0 * math.log(_TUNED_ALPHA)) + 1.0) / optimum
    t = n * design_effect * rho2 + 1.0
    log_term = math.log1p(math.sqrt(t) / (2.0 * alpha)) if sides == 1 else math.log(math.sqrt(t) / alpha)
    return math.sqrt(variance * 2.0 * t / (n**2 * rho2) * log_term)
