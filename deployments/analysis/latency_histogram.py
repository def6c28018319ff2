"""Latencies as a histogram that merges by addition, and time-uniform bounds on their quantiles. Pure.

Bins are log-spaced, 16 to an octave: a bound is known to within 4.4 % and errs to the safe side, and 512 counts hold
anything between a microsecond and an hour.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Self

import numpy as np
from pydantic import Field

from cluster.values import Frozen
from deployments.analysis.sequential_tests import log_e_above, log_e_below

_BINS_PER_OCTAVE = 16
_LOWEST, _HIGHEST = -10 * _BINS_PER_OCTAVE, 22 * _BINS_PER_OCTAVE
"""Bins of 2**-10 ms and of 2**22 ms; what lies beyond is counted in them."""


class Latencies(Frozen):
    """How many observations fell into each bin: bin k holds (edge(k - 1), edge(k)] milliseconds."""

    counts: dict[int, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, values_ms: np.ndarray) -> Self:
        positive = np.maximum(values_ms, 2.0 ** (_LOWEST / _BINS_PER_OCTAVE))
        bins = np.ceil(_BINS_PER_OCTAVE * np.log2(positive)).clip(_LOWEST, _HIGHEST).astype(int)
        return cls(counts=dict(Counter(bins.tolist())))

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def quantile(self, probability: float) -> float:
        """Upper edge, ms, of the bin that the quantile lies in; 0 without observations."""
        bins, above = self._above()
        return edge(int(bins[np.argmax(self.n - above >= self.n * probability)])) if bins.size else 0.0

    def lower_limit(self, probability: float, alpha: float) -> float:
        """A limit, ms, that ever exceeds the quantile with probability <= ``alpha``; 0 when nothing is known.

        Howard, Ramdas, "Sequential estimation of quantiles with applications to A/B testing and best-arm
        identification", Bernoulli 28(3), 2022, section 3: whether an observation lies above the quantile is a
        Bernoulli variable whose mean is at most 1 - probability, so one time-uniform test of that mean, here by a
        beta-binomial mixture, bounds the quantile: every value at which the test rejects lies below it.
        """
        bins, above = self._above()
        if not bins.size:
            return 0.0
        # Observations of bin k are above its lower edge.
        reached = above + [self.counts[int(k)] for k in bins]
        shown = log_e_above(reached, float(self.n), 1.0 - probability) >= math.log(1.0 / alpha)
        return edge(int(bins[shown][-1]) - 1) if shown.any() else 0.0

    def upper_limit(self, probability: float, alpha: float) -> float:
        """The mirror image of lower_limit; infinite when nothing is known."""
        bins, above = self._above()
        if not bins.size:
            return math.inf
        shown = log_e_below(above, float(self.n), 1.0 - probability) >= math.log(1.0 / alpha)
        return edge(int(bins[shown][0])) if shown.any() else math.inf

    def __add__(self, other: Latencies) -> Latencies:
        return Latencies(counts=dict(Counter(self.counts) + Counter(other.counts)))

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins in use, rising, and how many observations lie above the upper edge of each."""
        bins = np.array(sorted(self.counts), dtype=int)
        counts = np.array([self.counts[int(k)] for k in bins], dtype=float)
        return bins, counts.sum() - counts.cumsum()


def edge(bin: int) -> float:
    """Upper edge of a bin, ms. The lowest bin begins at 0, the highest has no end."""
    if bin >= _HIGHEST:
        return math.inf
    return 2.0 ** (bin / _BINS_PER_OCTAVE) if bin >= _LOWEST else 0.0
