"""Latencies as a histogram that merges by addition, and time-uniform bounds on their quantiles. Pure.

Bins are log-spaced, 16 to an octave: a bound is known to within 4.4% and errs on the safe side, and 512 counts cover a
microsecond to an hour.
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
"""Bins of 2**-10 ms and of 2**22 ms; they also count everything beyond."""


class LatencyHistogram(Frozen):
    """Observations by bin: bin k holds (upper_edge(k - 1), upper_edge(k)] milliseconds."""

    counts: dict[int, int] = Field(default_factory=dict)

    @classmethod
    def from_values(cls, values_ms: np.ndarray) -> Self:
        positive = np.maximum(values_ms, 2.0 ** (_LOWEST / _BINS_PER_OCTAVE))
        bins = np.ceil(_BINS_PER_OCTAVE * np.log2(positive)).clip(_LOWEST, _HIGHEST).astype(int)
        return cls(counts=dict(Counter(bins.tolist())))

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def quantile(self, probability: float) -> float:
        """Upper edge, ms, of the bin that contains the quantile; 0 without observations."""
        bins, above = self._above()
        return upper_edge(int(bins[np.argmax(self.n - above >= self.n * probability)])) if bins.size else 0.0

    def lower_bound(self, probability: float, alpha: float) -> float:
        """Time-uniform lower bound, ms: it ever exceeds the quantile with probability <= ``alpha``; 0 without evidence.

        Howard, Ramdas, "Sequential estimation of quantiles with applications to A/B testing and best-arm
        identification", Bernoulli 28(3), 2022, section 3: whether an observation is above the quantile is a
        Bernoulli variable whose mean is at most 1 - probability, so one time-uniform test of that mean, here by a
        beta-binomial mixture, bounds the quantile: every value at which the test rejects is below it.
        """
        bins, above = self._above()
        if not bins.size:
            return 0.0
        # Observations of bin k are above its lower edge.
        at_least = above + [self.counts[int(k)] for k in bins]
        shown = log_e_above(at_least, float(self.n), 1.0 - probability) >= math.log(1.0 / alpha)
        return upper_edge(int(bins[shown][-1]) - 1) if shown.any() else 0.0

    def upper_bound(self, probability: float, alpha: float) -> float:
        """Time-uniform upper bound, ms, mirroring lower_bound; infinite without evidence."""
        bins, above = self._above()
        if not bins.size:
            return math.inf
        shown = log_e_below(above, float(self.n), 1.0 - probability) >= math.log(1.0 / alpha)
        return upper_edge(int(bins[shown][0])) if shown.any() else math.inf

    def __add__(self, other: LatencyHistogram) -> LatencyHistogram:
        return LatencyHistogram(counts=dict(Counter(self.counts) + Counter(other.counts)))

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins in use, rising, and how many observations are above the upper edge of each."""
        bins = np.array(sorted(self.counts), dtype=int)
        counts = np.array([self.counts[int(k)] for k in bins], dtype=float)
        return bins, counts.sum() - counts.cumsum()


def upper_edge(bin: int) -> float:
    """Upper edge of a bin, ms. The lowest bin begins at 0, the highest has no end."""
    if bin >= _HIGHEST:
        return math.inf
    return 2.0 ** (bin / _BINS_PER_OCTAVE) if bin >= _LOWEST else 0.0
