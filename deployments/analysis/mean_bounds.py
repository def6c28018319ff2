"""Asymptotic confidence sequences for a mean, of independent rows or of rows that come in clusters. Pure.

The limits are those of cluster/confidence_sequences.py, one-sided.

Rows of one key (a user, a device) resemble one another: their sum varies more than that of independent rows. Its
variance is estimated by clusters, from the sums of the keys (Liang, Zeger, "Longitudinal data analysis using
generalized linear models", Biometrika 73(1), 1986), and that variance is the clock on which the mixture runs: rows
count ``Moments.design_effect`` times. The bound stays valid, asymptotically in the number of keys, as long as rows of
one key are not negatively related: then the sum's increments have covariances >= 0, at equal variance it stays closer
to its past than Brownian motion does, and by Slepian's inequality ("The one-sided barrier problem for Gaussian noise",
1962) it crosses a boundary less often. Where each key comes once the design effect is 1, and nothing changes.
"""

from __future__ import annotations

from cluster.confidence_sequences import half_width
from deployments.analysis.paired_moments import Moments


def mean_bounds(excess: Moments, alpha: float, sharpest_n: int, least_variance: float = 0.0) -> tuple[float, float]:
    """Lower and upper limit of one-sided confidence sequences for the mean of ``excess``.

    Without observations they are -inf and inf.

    Args:
        excess: Moments of the observations.
        alpha: Error probability of each limit.
        sharpest_n: Number of observations at which the limits are sharpest.
        least_variance: A variance that replaces a smaller one of the observations (predicted_moments.py).
    """
    width = half_width(max(excess.variance, least_variance), excess.n, alpha, sharpest_n, 1, excess.design_effect)
    return excess.mean - width, excess.mean + width
