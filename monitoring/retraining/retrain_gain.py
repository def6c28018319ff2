"""What a retraining gained: losses of the new version and of the one that it replaced, on the same later rows. Pure.

Both versions have a loss for each labeled row that the new one answered after its promotion: the one it answered with,
and the one that the replaced version would have had. The interval of the mean difference holds at every look
(cluster/confidence_sequences.py), and rows of one key count as what they are worth together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Self

import numpy as np

from cluster.confidence_sequences import half_width
from cluster.times import format_utc
from cluster.values import Additive, Frozen

CONFIDENCE = 0.95
MIN_ROWS = 30
"""Independent rows below which there is no interval: the deviation is too uncertain."""
SHARPEST_N = 500
"""Rows at which the interval is sharpest, as in a rollout."""


class PairedLosses(Additive):
    """Sums over labeled rows, and over ordered pairs of different rows of one key."""

    rows: int = 0
    loss: float = 0.0
    """Losses of the new version."""
    replaced: float = 0.0
    """Losses of the replaced version."""
    squares: float = 0.0
    """Squares of the differences, new less replaced."""
    pairs: float = 0.0
    """Number of pairs."""
    pair_differences: float = 0.0
    """Differences of the first rows of the pairs."""
    pair_products: float = 0.0
    """Products of the differences of both rows."""

    @classmethod
    def from_losses(cls, loss: np.ndarray, replaced: np.ndarray, keys: np.ndarray) -> Self:
        """Compute from the losses [n] of both versions and the key of each row."""
        if not len(loss):
            return cls()
        difference = loss - replaced
        _, owner = np.unique(keys, return_inverse=True)
        sizes, sums = np.bincount(owner).astype(float), np.bincount(owner, difference)
        return cls(
            rows=len(loss),
            loss=float(loss.sum()),
            replaced=float(replaced.sum()),
            squares=float(difference @ difference),
            pairs=float(sizes @ sizes - sizes.sum()),
            pair_differences=float(sizes @ sums - difference.sum()),
            pair_products=float(sums @ sums - difference @ difference),
        )

    @property
    def mean(self) -> float:
        """Mean difference; negative where the new version loses less."""
        return (self.loss - self.replaced) / self.rows if self.rows else 0.0

    def interval(self) -> tuple[float, float] | None:
        """Limits of the mean difference; None with too few rows."""
        if not self.rows or self.rows**2 < MIN_ROWS * (self.rows + self.pairs):
            return None
        mean = self.mean
        m2 = max(self.squares - self.rows * mean**2, 0.0)
        cross = self.pair_products - 2.0 * mean * self.pair_differences + mean**2 * self.pairs
        design_effect = 1.0 + max(cross, 0.0) / m2 if m2 else 1.0
        width = half_width(m2 / self.rows, self.rows, 1.0 - CONFIDENCE, SHARPEST_N, 2, design_effect)
        return mean - width, mean + width


class WindowGain(Frozen):
    """Losses in one window, as far as its labels have come."""

    version: str
    replaced: str
    promoted: float
    """When the version was promoted, seconds since the epoch."""
    window: float
    """Start of the window, event time, seconds since the epoch."""
    losses: PairedLosses


class RetrainGain(Frozen):
    """What the retraining of a version gained so far."""

    version: str
    replaced: str
    promoted: float
    rows: int
    """Labeled rows."""
    loss: float
    replaced_loss: float
    low: float | None = None
    high: float | None = None
    """Limits of ``loss - replaced_loss``; None with too few rows."""

    def __str__(self) -> str:
        losses = f"loss {self.loss:.4g} against {self.replaced_loss:.4g} had v{self.replaced} stayed"
        if self.low is None or self.high is None:
            interval = "too few for an interval"
        else:
            interval = f"difference {self.low:.3g} to {self.high:.3g}, {CONFIDENCE:.0%} interval"
        return f"v{self.version}, promoted {format_utc(self.promoted)} UTC: {losses} ({self.rows:,} rows; {interval})"


def summarize_gains(windows: Iterable[WindowGain]) -> tuple[RetrainGain, ...]:
    """Add up the windows of each version with labels, in the order of promotions."""

    def promotion(window: WindowGain) -> tuple[float, str, str]:
        return window.promoted, window.version, window.replaced

    gains = []
    for (promoted, version, replaced), group in groupby(sorted(windows, key=promotion), promotion):
        losses = sum((window.losses for window in group), PairedLosses())
        if losses.rows:
            low, high = losses.interval() or (None, None)
            gains.append(
                RetrainGain(
                    version=version,
                    replaced=replaced,
                    promoted=promoted,
                    rows=losses.rows,
                    loss=losses.loss / losses.rows,
                    replaced_loss=losses.replaced / losses.rows,
                    low=low,
                    high=high,
                )
            )
    return tuple(gains)
