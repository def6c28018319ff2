"""The statistics of a column, for many pairs of samples at once: what a null distribution is drawn of. Pure.

Cells are those of features/profiles/reference_profile.py, along the last axis. Numbers are compared in fine bins by their order
(Kolmogorov-Smirnov, Wasserstein, and by normal scores) and in tenths of the reference's mass without it (PSI, Jensen-Shannon,
chi-square); categories by the latter alone. Missing, invalid and new cells are counts, whose null distribution is known
exactly (monitoring/statistics/null_distributions.py). A direction leaves the statistics that have one.

Normal scores give every bin the mean of a normal variable, or of its square, between the quantiles that the bin has in the
reference. Of exact ranks the difference of their means is the most powerful rank statistic against small shifts (van der Waerden, Indagationes
Mathematicae 14, 1952) and small changes of spread (Klotz, Annals of Mathematical Statistics 33, 1962) of a normal column; forty bins come
close. The others see these late: a Kolmogorov-Smirnov distance hardly moves where a column only widens, and tenths hide its tails.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from features.profiles.reference_profile import TRAILING_CELLS, Bins
from monitoring.statistics.distances import PSI_BINS, SMOOTHING, Direction

ORDERED = ("kolmogorov_smirnov", "wasserstein", "van_der_waerden")
SPREAD = ("klotz",)
POOLED = ("psi", "jensen_shannon", "chi_square")
_TINY = 1e-300


@dataclass(frozen=True)
class Battery:
    """Which statistics fit a column. ``widths`` [bins - 1] lie between the edges of its bins, the last of them 0.

    They are in units of the reference's standard deviation, so that a Wasserstein distance of 0.1 reads as a tenth of
    it. A category has no widths; ``tenths`` [bins] tells which tenth of the reference a bin belongs to; ``scores`` [bins, 2] are
    normal scores and their squares.
    """

    widths: np.ndarray = field(default_factory=lambda: np.empty(0))
    tenths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    scores: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    categorical: bool = True
    direction: Direction = "both"

    @classmethod
    def of_number(cls, bins: Bins, reference: np.ndarray, std: float, direction: Direction = "both") -> Battery:
        """For cells [bins + 2] of a number column."""
        gaps = np.diff(np.array(bins.edges), append=bins.edges[-1:])
        unit = std if np.isfinite(std) and std > 0 else 1.0
        mass = reference[:-TRAILING_CELLS]
        middles = np.cumsum(mass) - mass / 2
        tenths = np.minimum(middles * PSI_BINS // max(1, mass.sum()), PSI_BINS - 1).astype(np.int64)
        return cls(gaps / unit, np.unique(tenths, return_inverse=True)[1], _scores(mass), False, direction)

    @property
    def names(self) -> tuple[str, ...]:
        if self.categorical:
            return POOLED
        return (*ORDERED, *SPREAD, *POOLED) if self.direction == "both" else ORDERED

    def measure(self, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Statistics [draws, names] of cells [draws, cells]."""
        if self.categorical:
            return _pooled(reference, live)
        kept = slice(None, -TRAILING_CELLS)
        ordered = self._ordered(reference[:, kept], live[:, kept])
        if self.direction != "both":
            return ordered
        sums = np.eye(int(self.tenths.max(initial=0)) + 1)[self.tenths]
        pooled = [np.hstack([cells[:, kept] @ sums, cells[:, -TRAILING_CELLS:]]) for cells in (reference, live)]
        return np.hstack([ordered, _pooled(*pooled)])

    def _ordered(self, reference: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Kolmogorov-Smirnov, Wasserstein of values cut off at the outermost edges, normal scores; one-sided for a direction."""
        valued = (live.sum(axis=1, keepdims=True) > 0) & (reference.sum(axis=1, keepdims=True) > 0)
        # Of a side without a value nothing is known; that values are missing is told by their own count.
        apart = np.where(valued, _shares(live) - _shares(reference), 0.0)
        below = -apart.cumsum(axis=1)[:, :-1]
        moved = apart @ self.scores
        if self.direction == "both":
            below, moved = np.abs(below), np.abs(moved)
        elif self.direction == "down":
            below, moved = -below, -moved
        farthest = np.maximum(below.max(axis=1, initial=0.0), 0.0)
        measured = [farthest, np.maximum(below @ self.widths, 0.0), np.maximum(moved[:, 0], 0.0)]
        return np.stack([*measured, *([moved[:, 1]] if self.direction == "both" else [])], axis=1)


def _scores(mass: np.ndarray) -> np.ndarray:
    """Means of a standard normal variable and of its square between the quantiles of each bin, [bins, 2]; 0 of an empty bin."""
    ranks = np.concatenate([[0.0], np.cumsum(mass) / max(1, mass.sum())])
    edges = stats.norm.ppf(np.minimum(ranks, 1.0))
    density = stats.norm.pdf(edges)
    # At infinity z pdf(z) is 0.
    weighted = np.where(density > 0, np.nan_to_num(edges, posinf=0.0, neginf=0.0) * density, 0.0)
    width = np.diff(ranks)
    filled = np.maximum(width, _TINY)
    first, second = -np.diff(density) / filled, (width - np.diff(weighted)) / filled
    return np.where(width[:, None] > 0, np.stack([first, second], axis=1), 0.0)


def _pooled(reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    p, q = _shares(reference + SMOOTHING), _shares(live + SMOOTHING)
    middle = (p + q) / 2
    psi = ((q - p) * np.log(q / p)).sum(axis=1)
    bits = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum(axis=1) / 2
    n, m = (cells.sum(axis=1, keepdims=True) for cells in (reference, live))
    both = reference + live
    expected = both * m / np.maximum(n + m, 1)
    # Pearson's statistic of two rows: the reference's part is the live part times m / n.
    apart = ((live - expected) ** 2 / np.maximum(expected, _TINY)).sum(axis=1)
    chi = apart * (1 + (m / np.maximum(n, 1))[:, 0])
    return np.stack([psi, np.sqrt(np.maximum(bits, 0.0)), chi], axis=1)


def _shares(cells: np.ndarray) -> np.ndarray:
    return np.asarray(cells / np.maximum(cells.sum(axis=1, keepdims=True), _TINY))
