"""Lower bounds for ratios of two means, by Fieller's theorem (1954, "Some Problems in Interval Estimation")."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class MeanEstimate(NamedTuple):
    """A mean, the variance of that mean, and the number of rows."""

    value: float
    variance: float
    rows: int

    @classmethod
    def of(cls, values: np.ndarray) -> MeanEstimate:
        """The mean of ``values`` [n]; the variance of a single row is unknown, hence infinite."""
        rows = len(values)
        return cls(float(values.mean()), float(values.var(ddof=1)) / rows if rows > 1 else math.inf, rows)


def ratio_lower_bound(above: MeanEstimate, below: MeanEstimate, alpha: float, covariance: float = 0.0) -> float:
    """Lower bound of ``above`` / ``below`` with confidence 1 - ``alpha``.

    Args:
        above: Numerator, a mean of non-negative values.
        below: Denominator, a mean of non-negative values.
        alpha: Error of the bound.
        covariance: Covariance of the two means.

    Returns:
        The bound; 0 where the rows prove nothing; NaN when a mean is NaN.
    """
    rows = min(above.rows, below.rows)
    if rows < 2:
        return 0.0
    if not (above.value > 0 and below.value > 0):
        return math.nan if math.isnan(above.value + below.value) else 0.0
    z2 = float(stdtrit(rows - 1, 1 - alpha)) ** 2
    # Relative to the means, because products of two tiny means round to 0.
    a = 1 - z2 * below.variance / below.value / below.value
    b = 1 - z2 * covariance / above.value / below.value
    c = 1 - z2 * above.variance / above.value / above.value
    if math.isnan(a + b + c):
        return math.nan
    # With a <= 0 the denominator may be 0, with c <= 0 the numerator may be: nothing above 0 is proven.
    if a <= 0 or c <= 0:
        return 0.0
    # Negative only by rounding, when one mean is a multiple of the other row by row.
    return max(0.0, (b - math.sqrt(max(0.0, b**2 - a * c))) / a) * above.value / below.value


def unpaired_lower_bound(above: np.ndarray, below: np.ndarray, alpha: float) -> float:
    """``ratio_lower_bound`` of the means of two independent sets of rows."""
    return ratio_lower_bound(MeanEstimate.of(above), MeanEstimate.of(below), alpha)


def paired_lower_bound(above: np.ndarray, below: np.ndarray, alpha: float) -> float:
    """``ratio_lower_bound`` of the means of two values of the same rows."""
    covariance = float(np.cov(above, below)[0, 1]) / len(above) if len(above) > 1 else 0.0
    return ratio_lower_bound(MeanEstimate.of(above), MeanEstimate.of(below), alpha, covariance)
