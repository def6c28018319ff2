"""Quality by labels that come late: a metric per window and segment, with limits that hold however often one looks. Pure.

A window's labels trickle in for days, and its figure is looked at all the while: limits of a fixed sample size would be
wrong sooner or later. Both kinds are confidence sequences, valid at every number of labels at once.

rates (0 or 1)  exact: the beta-binomial mixture, {p : B(s + a, n - s + b) / B(a, b) < p^s (1 - p)^(n - s) / alpha}
                (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; by Ville)
losses          asymptotic, two-sided (cluster/confidence_sequences.py), from LEAST_LABELS on
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln

from cluster.confidence_sequences import half_width
from cluster.values import Frozen

OPTIMUM = 1_000
"""The number of labels at which limits of a loss are sharpest."""
LEAST_LABELS = 30
"""Of fewer losses the variance is not known: that of one is 0, and its limits would be the loss itself."""


class Labelled(Frozen):
    """Losses of the labelled rows of one window and segment; merges by addition.

    ``rows`` counts the window's predictions, labelled or not.
    """

    rows: int = 0
    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    binary: bool = True

    @classmethod
    def of(cls, losses: np.ndarray, rows: int = 0) -> Labelled:
        """From losses [n]; those that are not finite are left out."""
        finite = losses[np.isfinite(losses)].astype(float)
        if not finite.size:
            return cls(rows=rows)
        mean = float(finite.mean())
        m2 = float(np.square(finite - mean).sum())
        return cls(rows=rows, n=finite.size, mean=mean, m2=m2, binary=bool(np.isin(finite, (0, 1)).all()))

    def __add__(self, other: Labelled) -> Labelled:
        """Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979, eq. 2.1."""
        n, rows, binary = self.n + other.n, self.rows + other.rows, self.binary and other.binary
        if not n:
            return Labelled(rows=rows, binary=binary)
        delta = other.mean - self.mean
        mean = self.mean + delta * other.n / n
        return Labelled(
            rows=rows, n=n, mean=mean, m2=self.m2 + other.m2 + delta**2 * self.n * other.n / n, binary=binary
        )

    @property
    def share(self) -> float:
        """Share of the rows whose labels have come."""
        return min(1.0, self.n / self.rows) if self.rows else 0.0


class Limits(Frozen):
    """Where the mean loss lies; infinite limits where nothing is known."""

    low: float
    high: float


def limits(found: Labelled, alpha: float) -> Limits:
    """Limits that cover the mean at all times with probability 1 - alpha."""
    if found.n < (1 if found.binary else LEAST_LABELS):
        return Limits(low=-math.inf, high=math.inf)
    return _rate(found.n, round(found.mean * found.n), alpha) if found.binary else _loss(found, alpha)


def worse(found: Labelled, reference: float, alpha: float, margin: float = 0.0) -> bool:
    """Whether the loss is above ``reference`` by more than ``margin`` of it, at any look with error alpha."""
    # Limits are two-sided, and only one of them is looked at.
    return limits(found, 2.0 * alpha).low > reference * (1.0 + margin)


def _rate(n: int, hits: int, alpha: float) -> Limits:
    log_mixture = betaln(hits + 1.0, n - hits + 1.0)

    def beyond(p: float) -> float:
        """Below 0 while ``p`` is possible."""
        log_p = (hits * math.log(p) if hits else 0.0) + ((n - hits) * math.log1p(-p) if hits < n else 0.0)
        return float(log_mixture - log_p + math.log(alpha))

    middle, tiny = min(max(hits / n, 1e-12), 1 - 1e-12), 1e-15
    low = brentq(beyond, tiny, middle) if hits and beyond(tiny) > 0 else 0.0
    high = brentq(beyond, middle, 1 - tiny) if hits < n and beyond(1 - tiny) > 0 else 1.0
    return Limits(low=float(low), high=float(high))


def _loss(found: Labelled, alpha: float) -> Limits:
    reach = half_width(found.m2 / found.n, found.n, alpha, OPTIMUM, 2)
    return Limits(low=found.mean - reach, high=found.mean + reach)
