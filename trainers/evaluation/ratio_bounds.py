"""Lower bounds for the ratio of two means, by Fieller's theorem (Fieller 1954, "Some Problems in Interval Estimation")."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Mean(NamedTuple):
    """A mean with the variance of that mean, and the number of rows."""

    value: float
    variance: float
    rows: int

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """Of one row the variance is unknown, hence infinite."""
        rows = len(values)
        return cls(float(values.mean()), float(values.var(ddof=1)) / rows if rows > 1 else math.inf, rows)


def ratio_low(above: Mean, below: Mean, alpha: float, covariance: float = 0.0) -> float:
    """The ratio of two means is above this with confidence 1 - ``alpha``; 0 where the rows prove nothing.

    ``covariance`` is that of the two means. For means of values that are not negative; NaN when one of them is.
    """
    rows = min(above.rows, below.rows)
    if rows < 2:
        return 0.0
    z2 = float(stats.t.ppf(1 - alpha, rows - 1)) ** 2
    a = below.value**2 - z2 * below.variance
    b = above.value * below.value - z2 * covariance
    c = above.value**2 - z2 * above.variance
    if math.isnan(a + b + c):
        return math.nan
    # With a <= 0 the denominator may be 0, with c <= 0 the numerator may be: nothing above 0 is proven.
    if a <= 0 or c <= 0:
        return 0.0
    # Negative by rounding alone, when one mean is a multiple of the other row by row.
    return max(0.0, (b - math.sqrt(max(0.0, b**2 - a * c))) / a)


def unpaired(above: np.ndarray, below: np.ndarray, alpha: float) -> float:
    """``ratio_low`` of the means of two independent sets of rows."""
    return ratio_low(Mean.of(above), Mean.of(below), alpha)


def paired(above: np.ndarray, below: np.ndarray, alpha: float) -> float:
    """``ratio_low`` of the means of two values of the same rows."""
    covariance = float(np.cov(above, below)[0, 1]) / len(above) if len(above) > 1 else 0.0
    return ratio_low(Mean.of(above), Mean.of(below), alpha, covariance)
