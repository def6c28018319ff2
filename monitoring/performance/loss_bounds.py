"""Quality by labels that arrive late: the loss of a window or segment, with bounds that hold at every analysis. Pure.

A window's labels arrive over days, and its loss is read all the while: bounds for a fixed sample size would be wrong
sooner or later. Both kinds here are confidence sequences, valid for all numbers of labels simultaneously.

rates (0 or 1)  exact: the beta-binomial mixture, {p : B(s + a, n - s + b) / B(a, b) < p^s (1 - p)^(n - s) / alpha}
                (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; by Ville)
losses          asymptotic, two-sided (cluster/confidence_sequences.py), from MIN_LABELS on
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln

from cluster.confidence_sequences import half_width
from cluster.values import Frozen

OPTIMAL_LABELS = 1_000
"""The number of labels at which bounds of a loss are tightest."""
MIN_LABELS = 30
"""With fewer losses the variance is unknown: that of one is 0, and its bounds would be the loss itself."""


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


def _bound_rate(n: int, hits: int, alpha: float) -> LossBounds:
    log_mixture = betaln(hits + 1.0, n - hits + 1.0)

    def beyond(p: float) -> float:
        """Below 0 while ``p`` is possible."""
        log_p = (hits * math.log(p) if hits else 0.0) + ((n - hits) * math.log1p(-p) if hits < n else 0.0)
        return float(log_mixture - log_p + math.log(alpha))

    middle, tiny = min(max(hits / n, 1e-12), 1 - 1e-12), 1e-15
    low = brentq(beyond, tiny, middle) if hits and beyond(tiny) > 0 else 0.0
    high = brentq(beyond, middle, 1 - tiny) if hits < n and beyond(1 - tiny) > 0 else 1.0
    return LossBounds(low=float(low), high=float(high))
