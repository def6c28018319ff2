"""Quality by labels that arrive late: the loss of a window or segment, with bounds that hold at every analysis. Pure.

A window's labels arrive over days, and its loss is read all the while: bounds for a fixed sample size would be wrong
sooner or later. Both kinds here are confidence sequences, valid for all numbers of labels simultaneously.

rates (0 or 1)  exact: the beta-binomial mixture, {p : B(s + a, n - s + b) / B(a, b) < p^s (1 - p)^(n - s) / alpha}
                (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; by Ville)
differences     exact: the product of two such mixtures, each a martingale at its own rate
losses          asymptotic, two-sided (cluster/confidence_sequences.py), from MIN_LABELS on

What they are compared with is uncertain as well: the mean of held-out rows, and how much windows differ. Both are in
``ordinary_loss``, a prediction limit for one more window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import betaln, stdtrit, xlog1py, xlogy

from cluster.confidence_sequences import half_width
from cluster.values import Frozen

OPTIMAL_LABELS = 1_000
"""The number of labels at which bounds of a loss are tightest."""
MIN_LABELS = 30
"""With fewer losses the variance is unknown: that of one is 0, and its bounds would be the loss itself."""

MIN_WINDOWS = 5
"""With fewer held-out windows their variation is unknown, and only that of rows counts."""


class LabeledLoss(Frozen):
    """Losses of the labeled rows of one window and segment."""

    rows: int = 0
    """Predictions in the window, labeled or not."""
    n: int = 0
    """Labeled rows."""
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""
    binary: bool = True
    """Every loss is 0 or 1."""

    @classmethod
    def from_losses(cls, losses: np.ndarray, rows: int = 0) -> LabeledLoss:
        """Summarize losses.

        Args:
            losses: Loss of each row, [n]; those that are not finite are left out.
            rows: Predictions in the window, labeled or not.
        """
        finite = losses[np.isfinite(losses)].astype(float)
        if not finite.size:
            return cls(rows=rows)
        mean = float(finite.mean())
        m2 = float(np.square(finite - mean).sum())
        return cls(rows=rows, n=finite.size, mean=mean, m2=m2, binary=bool(np.isin(finite, (0, 1)).all()))

    @property
    def share(self) -> float:
        """Share of the rows whose labels have arrived."""
        return min(1.0, self.n / self.rows) if self.rows else 0.0


class LossBounds(Frozen):
    """Bounds of the mean loss; infinite where nothing is known."""

    low: float
    high: float


def bound_loss(loss: LabeledLoss, alpha: float) -> LossBounds:
    """Bounds that cover the mean at all times with probability 1 - alpha."""
    if loss.n < (1 if loss.binary else MIN_LABELS):
        return LossBounds(low=-math.inf, high=math.inf)
    if loss.binary:
        return _bound_rate(loss.n, round(loss.mean * loss.n), alpha)
    reach = half_width(loss.m2 / loss.n, loss.n, alpha, OPTIMAL_LABELS, 2)
    return LossBounds(low=loss.mean - reach, high=loss.mean + reach)


def is_worse(loss: LabeledLoss, reference: float, alpha: float, margin: float = 0.0) -> bool:
    """Whether the loss exceeds a reference, with error alpha over all analyses together.

    Args:
        loss: The loss so far.
        reference: Loss to compare with.
        alpha: Probability that it is ever true without cause.
        margin: Increase over the reference that is allowed, as a share of it.
    """
    # Bounds are two-sided, and only one of them is used.
    return bound_loss(loss, 2.0 * alpha).low > reference * (1.0 + margin)


def ordinary_loss(windows: Sequence[LabeledLoss], alpha: float) -> float:
    """The mean loss that a window like the held-out ones exceeds with probability alpha, at most.

    Student's prediction limit for one more of the windows' means, as normal values. They contain the noise of their
    rows: subtracting its estimate would be sharper, and misses at 5 times alpha where it is as large as the variation.

    Args:
        windows: Losses of held-out windows; the means of those with fewer than MIN_LABELS labels do not count.
        alpha: Probability.

    Returns:
        The limit; infinite where nothing is known.
    """
    rows = sum(window.n for window in windows)
    if rows < 2:
        return math.inf
    mean = sum(window.n * window.mean for window in windows) / rows
    means = np.array([window.mean for window in windows if window.n >= MIN_LABELS])
    if len(means) >= MIN_WINDOWS:
        variance, freedom = float(means.var(ddof=1)) * (1 + 1 / len(means)), len(means) - 1
    else:
        freedom = max(1, rows - sum(window.n > 0 for window in windows))
        variance = sum(window.m2 for window in windows) / freedom / rows
    return mean + float(stdtrit(freedom, 1.0 - alpha)) * math.sqrt(variance)


class RateCount(NamedTuple):
    """Rows and hits of a rate."""

    rows: int
    hits: int

    @property
    def value(self) -> float:
        """Share of hits; 0 without rows."""
        return self.hits / self.rows if self.rows else 0.0

    def log_martingale(self, p: float) -> float:
        """Log of the beta-binomial mixture over the likelihood of ``p``: the rows' evidence against this rate."""
        misses = self.rows - self.hits
        return float(betaln(self.hits + 1.0, misses + 1.0) - xlogy(self.hits, p) - xlog1py(misses, -p))


def log_e_difference(higher: RateCount, lower: RateCount, most: float) -> float:
    """Evidence that one rate exceeds another by more than ``most``: the log of an e-value, valid at every look.

    The least product of both mixtures over all rates that differ by at most ``most``. At the true rates the product is
    a martingale, whatever the order in which the rows of the two come (Ville).

    Args:
        higher: Rows with the higher rate, if there is a difference.
        lower: The other rows.
        most: The difference that is allowed, in [0, 1].
    """
    # Mixtures are convex in the rate, with the minimum at the observed one: the least product is between these.
    least, largest = lower.value, higher.value - most
    if largest <= least:
        return 0.0

    def evidence(p: float) -> float:
        return higher.log_martingale(p + most) + lower.log_martingale(p)

    return float(minimize_scalar(evidence, bounds=(least, largest), method="bounded").fun)


def least_difference(higher: RateCount, lower: RateCount, alpha: float) -> float:
    """Lower bound of the difference of two rates, which covers it at all times with probability 1 - alpha."""
    enough = -math.log(alpha)
    if log_e_difference(higher, lower, 0.0) < enough:
        return 0.0
    return float(
        brentq(lambda most: log_e_difference(higher, lower, most) - enough, 0.0, higher.value - lower.value, xtol=1e-6)
    )


def _bound_rate(n: int, hits: int, alpha: float) -> LossBounds:
    count = RateCount(n, hits)

    def beyond(p: float) -> float:
        """Below 0 while ``p`` is possible."""
        return count.log_martingale(p) + math.log(alpha)

    middle, tiny = min(max(hits / n, 1e-12), 1 - 1e-12), 1e-15
    low = brentq(beyond, tiny, middle) if hits and beyond(tiny) > 0 else 0.0
    high = brentq(beyond, middle, 1 - tiny) if hits < n and beyond(1 - tiny) > 0 else 1.0
    return LossBounds(low=float(low), high=float(high))
