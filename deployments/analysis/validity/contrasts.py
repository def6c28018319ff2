"""Differences of means and slopes, with variances by routing key, and their e-values. Pure.

Rows of one key resemble one another, so variances are those of the keys' sums (Liang, Zeger, "Longitudinal data
analysis using generalized linear models", Biometrika 73(1), 1986). The e-value of an estimate is that of a normal
mixture: with information 1/variance as its clock, the score is asymptotically a Brownian motion, and the mixture over a
normal effect is a martingale (Robbins, "Statistical methods related to the law of the iterated logarithm", 1970;
Johari, Koomen, Pekelis, Walsh, "Always valid inference", Operations Research 70(3), 2022, section 4). Variances are
those under the null, so a sample without any event has no variance of 0.
"""

from __future__ import annotations

import math

import numpy as np

from cluster.values import Frozen

MIN_KEYS = 30
"""Keys of each variant below which no estimate is used: it is asymptotic in their number."""
MIN_VARIATION = 5.0
"""Least sum of squared deviations, in each variant, of a variable in [0, 1]: the count of rarer events is skewed."""


class Estimate(Frozen):
    """An estimate with its variance under the null. Without enough keys both are 0."""

    value: float = 0.0
    variance: float = 0.0
    rows: int = 0

    def log_e(self, null: float = 0.0, *, scale: float, side: int = 0) -> float:
        """Log of an e-value against "the true value is ``null``", or not beyond it.

        Args:
            null: The value under the null.
            scale: Standard deviation of the mixture: the size of the effects that are found soonest.
            side: 0: both sides; 1: only values above the null count; -1: only those below it.
        """
        effect = self.value - null
        if not self.variance or (side and effect * side <= 0.0):
            return 0.0
        gain = scale**2 / self.variance
        return 0.5 * (effect**2 / self.variance * gain / (1.0 + gain) - math.log1p(gain))


def difference(values: np.ndarray, challenger: np.ndarray, shares: np.ndarray, keys: np.ndarray) -> Estimate:
    """Mean of the challenger's rows less that of the champion's, compared within each share.

    Args:
        values: A variable in [0, 1], by row.
        challenger: Whether the row was assigned to the challenger.
        shares: The challenger's share at the time.
        keys: Number of the row's routing key (number_keys).
    """
    influence, total, used = np.zeros(len(values)), 0.0, np.zeros(len(values), bool)
    for share in np.unique(shares):
        at = shares == share
        ours, theirs = at & challenger, at & ~challenger
        if not (ours.any() and theirs.any()):
            continue
        weight = ours.sum() * theirs.sum() / at.sum()
        centered = values[at].mean()
        influence[ours] = weight * (values[ours] - centered) / ours.sum()
        influence[theirs] = -weight * (values[theirs] - centered) / theirs.sum()
        total, used = total + weight, used | at
    if not used.any() or not all(_enough(influence, values, used & arm, keys) for arm in (challenger, ~challenger)):
        return Estimate()
    variance = squares_by_key(influence[used], keys[used]) / total**2
    return Estimate(value=float(influence.sum() / total), variance=variance, rows=int(used.sum()))


def slope(labels: np.ndarray, scores: np.ndarray, keys: np.ndarray, null: float) -> Estimate:
    """Slope of labels on scores, with the variance that it has where the slope is ``null``.

    For several classes it is the one slope of all indicator columns on the probabilities.

    Args:
        labels: Labels, [rows, columns].
        scores: Scores, [rows, columns].
        keys: Number of each row's routing key (number_keys).
        null: The slope under the null.
    """
    if np.count_nonzero(np.bincount(keys)) < MIN_KEYS:
        return Estimate()
    labels, scores = labels - labels.mean(axis=0), scores - scores.mean(axis=0)
    together, alone = (labels * scores).sum(axis=1), np.square(scores).sum(axis=1)
    total = float(alone.sum())
    if not total:
        return Estimate()
    variance = squares_by_key(together - null * alone, keys) / total**2
    return Estimate(value=float(together.sum()) / total, variance=variance, rows=len(keys))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, scaled to [0, 1]; equal values share their mean rank. They make heavy tails harmless."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray(((ends - counts / 2.0) / max(len(values), 1))[inverse])


def number_keys(hashes: np.ndarray) -> np.ndarray:
    """Numbers from 0 in place of hashes of keys: the functions of this module count by them."""
    return np.unique(hashes, return_inverse=True)[1]


def squares_by_key(influence: np.ndarray, keys: np.ndarray) -> float:
    """Sum over the keys of the squared sum of each key's rows."""
    return float(np.square(np.bincount(keys, influence)).sum())


def kish_effect(keys: np.ndarray) -> float:
    """Design effect when all rows of a key are alike: rows squared, by key, over rows (Kish, 1965, section 8.2)."""
    sizes = np.bincount(keys)
    return float(sizes @ sizes / len(keys)) if len(keys) else 1.0


def _enough(influence: np.ndarray, values: np.ndarray, rows: np.ndarray, keys: np.ndarray) -> bool:
    """Whether a variant has enough keys, and varies enough, at the rate at which both vary together."""
    spread = float(np.square(values[rows] - values.mean()).sum())
    pooled = float(values.var() * rows.sum())
    return bool(np.count_nonzero(np.bincount(keys[rows])) >= MIN_KEYS) and max(spread, pooled) >= MIN_VARIATION
