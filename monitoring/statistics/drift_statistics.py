"""The drift statistics of a column. To add one, write its function here and list it in STATISTICS. Pure.

A statistic compares the cell counts of a reference sample and a live one (features/profiles/reference_profile.py), for
many pairs of samples at once, so that its null distribution can be drawn (monitoring/statistics/null_distributions.py).

    ordered  Kolmogorov-Smirnov, Wasserstein and normal scores compare the bins of a number by their order
    pooled   PSI, Jensen-Shannon and chi-square ignore order: tenths of the reference's mass, or values of a category

Missing, invalid and new cells are counts, whose null distribution is known exactly.

Normal scores give every bin the mean of a normal variable, or of its square, between the quantiles that the bin has in
the reference. With exact ranks, the difference of their means is the most powerful rank statistic against small shifts
(van der Waerden, Indagationes Mathematicae 14, 1952) and small changes of spread (Klotz, Annals of Mathematical
Statistics 33, 1962) of a normal column; forty bins come close. The other statistics detect these late: a
Kolmogorov-Smirnov distance hardly moves when a column only widens, and tenths hide its tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import ndtri

from features.profiles.reference_profile import TRAILING_CELLS, Bins

Direction = Literal["both", "up", "down"]
"""Which changes of a number count: any, only larger values, only smaller values."""

PSI_BINS = 10
SMOOTHING = 0.5
"""Added to every cell for PSI and Jensen-Shannon, which are infinite or biased at empty ones (Jeffreys' prior)."""
_TINY = 1e-300


def kolmogorov_smirnov(pairs: SamplePairs) -> np.ndarray:
    """Largest difference of the distribution functions, in [0, 1]; one-sided for a direction."""
    return np.asarray(np.maximum(pairs.cdf_change.max(axis=1, initial=0.0), 0.0))


def wasserstein(pairs: SamplePairs) -> np.ndarray:
    """Area between the distribution functions within the outermost edges, in standard deviations of the reference."""
    return np.asarray(np.maximum(pairs.cdf_change[:, :-1] @ pairs.column.widths, 0.0))


def van_der_waerden(pairs: SamplePairs) -> np.ndarray:
    """Difference of the mean normal scores: a shift."""
    return np.asarray(np.maximum(pairs.score_change[:, 0], 0.0))


def klotz(pairs: SamplePairs) -> np.ndarray:
    """Difference of the mean squared normal scores: a change of spread."""
    return pairs.score_change[:, 1]


def psi(pairs: SamplePairs) -> np.ndarray:
    """Population stability index, sum (q - p) ln(q / p) (Siddiqi, "Credit Risk Scorecards", 2006, ch. 8), smoothed."""
    p, q = pairs.pooled_shares
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=1))


def jensen_shannon(pairs: SamplePairs) -> np.ndarray:
    """Jensen-Shannon distance in [0, 1]: root of the divergence in bits (Endres and Schindelin 2003), smoothed."""
    p, q = pairs.pooled_shares
    middle = (p + q) / 2
    # scipy.spatial.distance.jensenshannon takes 2.5 times as long on two thousand draws.
    bits = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(axis=1) / 2
    return np.asarray(np.sqrt(np.maximum(bits, 0.0)))


def chi_square(pairs: SamplePairs) -> np.ndarray:
    """Pearson's two-sample homogeneity statistic; 0 when either sample is empty."""
    reference, live = pairs.pooled_counts
    n, m = (cells.sum(axis=1, keepdims=True) for cells in (reference, live))
    expected = (reference + live) * m / np.maximum(n + m, 1)
    # Of two rows, the reference's part is the live part times m / n. SciPy has no batched form.
    live_part = ((live - expected) ** 2 / np.maximum(expected, _TINY)).sum(axis=1)
    return np.asarray(live_part * (1 + (m / np.maximum(n, 1))[:, 0]))


@dataclass(frozen=True)
class DriftStatistic:
    """A statistic and the columns that it fits.

    Attributes:
        measure: From pairs of samples to the statistic of each, [pairs], at least 0; larger is farther. Its name is
            the statistic's name in results, reports and alarms.
        ordered: It needs an order of the cells, which categories lack.
        directed: It can tell larger values from smaller ones.
    """

    measure: Callable[[SamplePairs], np.ndarray]
    ordered: bool
    directed: bool = False

    @property
    def name(self) -> str:
        """Name in results, reports and alarms."""
        return self.measure.__name__


STATISTICS = (
    DriftStatistic(kolmogorov_smirnov, ordered=True, directed=True),
    DriftStatistic(wasserstein, ordered=True, directed=True),
    DriftStatistic(van_der_waerden, ordered=True, directed=True),
    DriftStatistic(klotz, ordered=True),
    DriftStatistic(psi, ordered=False),
    DriftStatistic(jensen_shannon, ordered=False),
    DriftStatistic(chi_square, ordered=False),
)


@dataclass(frozen=True)
class ColumnStatistics:
    """The statistics that fit a column, and what they need to know of its reference. The default is a category.

    Attributes:
        mass: Reference rows in each bin of a number, [bins].
        widths: Distances between the edges of the bins, [bins - 1], the last one 0, in standard deviations of the
            reference: a Wasserstein distance of 0.1 is a tenth of one.
        categorical: Cells have no order; ``mass`` and ``widths`` are empty.
        direction: Which changes count.
    """

    mass: np.ndarray = field(default_factory=lambda: np.empty(0))
    widths: np.ndarray = field(default_factory=lambda: np.empty(0))
    categorical: bool = True
    direction: Direction = "both"

    @classmethod
    def of_number(
        cls, bins: Bins, reference: np.ndarray, std: float, direction: Direction = "both"
    ) -> ColumnStatistics:
        """The statistics of a number column.

        Args:
            bins: Bins of the column.
            reference: Reference counts, [bins + 2].
            std: Standard deviation of the reference.
            direction: Which changes count.
        """
        gaps = np.diff(np.array(bins.edges), append=bins.edges[-1:])
        unit = std if np.isfinite(std) and std > 0 else 1.0
        return cls(reference[:-TRAILING_CELLS], gaps / unit, False, direction)

    @cached_property
    def statistics(self) -> tuple[DriftStatistic, ...]:
        """The statistics that fit, in the order of STATISTICS."""
        fitting = [statistic for statistic in STATISTICS if statistic.directed or self.direction == "both"]
        return tuple(statistic for statistic in fitting if not (statistic.ordered and self.categorical))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the statistics that fit."""
        return tuple(statistic.name for statistic in self.statistics)

    @cached_property
    def tenths(self) -> np.ndarray:
        """Which tenth of the reference's mass each bin belongs to, [bins], numbered without gaps."""
        middles = np.cumsum(self.mass) - self.mass / 2
        tenths = np.minimum(middles * PSI_BINS // max(1, self.mass.sum()), PSI_BINS - 1).astype(np.int64)
        return np.asarray(np.unique(tenths, return_inverse=True)[1])

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean of a standard normal variable, and of its square, between the quantiles of each bin, [bins, 2].

        0 for an empty bin.
        """
        ranks = np.concatenate([[0.0], np.cumsum(self.mass) / max(1, self.mass.sum())])
        edges = ndtri(np.minimum(ranks, 1.0))
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        # At infinity z pdf(z) is 0.
        weighted = np.where(density > 0, np.nan_to_num(edges, posinf=0.0, neginf=0.0) * density, 0.0)
        width = np.diff(ranks)
        filled = np.maximum(width, _TINY)
        first, second = -np.diff(density) / filled, (width - np.diff(weighted)) / filled
        return np.where(width[:, None] > 0, np.stack([first, second], axis=1), 0.0)

    def measure(self, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Measure all statistics that fit.

        Args:
            reference: Counts of the reference samples, [pairs, cells].
            live: Counts of the live samples, [pairs, cells].

        Returns:
            Statistics, [pairs, names].
        """
        pairs = SamplePairs(self, reference, live)
        return np.stack([statistic.measure(pairs) for statistic in self.statistics], axis=1)


@dataclass(frozen=True)
class SamplePairs:
    """Pairs of samples of one column, [pairs, cells] each, with the intermediate results that statistics share."""

    column: ColumnStatistics
    reference: np.ndarray
    live: np.ndarray

    @cached_property
    def cdf_change(self) -> np.ndarray:
        """Reference less live distribution function at the end of each bin, [pairs, bins].

        Absolute, or positive where the values moved in the column's direction; 0 where a sample has no values.
        """
        return np.where(self._has_values, self._orient(self._cdf(self.reference) - self._cdf(self.live)), 0.0)

    @cached_property
    def score_change(self) -> np.ndarray:
        """Live less reference mean of the normal scores and of their squares, [pairs, 2], oriented like cdf_change."""
        values = slice(None, -TRAILING_CELLS)
        change = np.where(self._has_values, _shares(self.live[:, values]) - _shares(self.reference[:, values]), 0.0)
        return self._orient(change @ self.column.scores)

    @cached_property
    def pooled_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Reference and live counts without order: a number's bins by tenths, missing and invalid cells apart."""
        if self.column.categorical:
            return self.reference, self.live
        tenths, values = self.column.tenths, slice(None, -TRAILING_CELLS)
        sums = np.eye(int(tenths.max(initial=0)) + 1)[tenths]
        reference, live = (
            np.hstack([cells[:, values] @ sums, cells[:, -TRAILING_CELLS:]]) for cells in (self.reference, self.live)
        )
        return reference, live

    @cached_property
    def pooled_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Smoothed shares of the pooled counts."""
        reference, live = self.pooled_counts
        return _shares(reference + SMOOTHING), _shares(live + SMOOTHING)

    @cached_property
    def _has_values(self) -> np.ndarray:
        """Whether both samples have values, [pairs, 1]. That values are missing shows in their own count."""
        rows = [cells[:, :-TRAILING_CELLS].sum(axis=1, keepdims=True) for cells in (self.reference, self.live)]
        return np.asarray((rows[0] > 0) & (rows[1] > 0))

    def _orient(self, change: np.ndarray) -> np.ndarray:
        """A change as the column's direction counts it: absolute, as it is, or negated."""
        if self.column.direction == "both":
            return np.asarray(np.abs(change))
        return -change if self.column.direction == "down" else change

    @staticmethod
    def _cdf(cells: np.ndarray) -> np.ndarray:
        values = cells[:, :-TRAILING_CELLS]
        return np.asarray(values.cumsum(axis=1) / np.maximum(values.sum(axis=1, keepdims=True), _TINY))


def _shares(cells: np.ndarray) -> np.ndarray:
    return np.asarray(cells / np.maximum(cells.sum(axis=1, keepdims=True), _TINY))
