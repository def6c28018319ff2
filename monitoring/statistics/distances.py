"""How far two samples of a column lie apart, from their cell counts (features/profiles/reference_profile.py).

The distance that alarms are raised on is the largest difference in the share of rows, sup |P(A) - Q(A)|, over
a class of sets A that fits the column. It reads alike for all: 0.2 means that a fifth of the rows moved.

    number, both     A = {x <= t} for any t      Kolmogorov-Smirnov, D
    number, up       A = {x > t}, live - ref     one-sided, D+: live values are larger
    number, down     A = {x <= t}, live - ref    one-sided, D-: live values are smaller
    category         A = any set of values       total variation
    any              A = {missing}, {invalid}    the larger of these and the above counts

The others are reported beside it, since people know them: PSI, Jensen-Shannon, chi-square. monitoring/statistics/batched_statistics.py
has them for many samples at once, with Wasserstein, for tests that use them all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cluster.values import Frozen
from features.profiles.reference_profile import TRAILING_CELLS

Direction = Literal["both", "up", "down"]

PSI_BINS = 10
SMOOTHING = 0.5
"""Added to every cell for PSI and Jensen-Shannon, which are infinite or biased at empty ones (Jeffreys' prior)."""


class Distances(Frozen):
    """One column, live against reference. ``rows`` and ``reference_rows`` count its cells of any sort.

    ``statistic`` is the distance that alarms are raised on, in [0, 1]; ``chi_square`` has
    ``freedom`` degrees of freedom; ``nulls`` is the live share of missing cells less the reference's;
    ``new`` the live share of values that the reference never saw.
    """

    rows: int
    reference_rows: int
    statistic: float
    psi: float
    jensen_shannon: float
    chi_square: float
    freedom: int
    nulls: float
    new: float = 0.0


def number_statistic(reference: np.ndarray, live: np.ndarray, direction: Direction) -> float:
    """The distance of a number column that alarms are raised on; cells [bins + 2] each."""
    moved = kolmogorov_smirnov(reference[:-TRAILING_CELLS], live[:-TRAILING_CELLS], direction)
    return max(moved, _trailing(reference, live))


def category_statistic(reference: np.ndarray, live: np.ndarray) -> float:
    """The distance of a category column that alarms are raised on; cells [values + 4] each."""
    moved = total_variation(reference[:-TRAILING_CELLS], live[:-TRAILING_CELLS])
    return max(moved, _trailing(reference, live))


def number_distances(reference: np.ndarray, live: np.ndarray, direction: Direction) -> Distances:
    """All distances of a number column, PSI and its like over tenths of the reference's mass."""
    pooled = deciles(reference, reference), deciles(live, reference)
    return _distances(number_statistic(reference, live, direction), *pooled, new=0.0)


def category_distances(reference: np.ndarray, live: np.ndarray) -> Distances:
    """All distances of a category column."""
    new = float(live[-TRAILING_CELLS - 1] / max(1, live.sum()))
    return _distances(category_statistic(reference, live), reference, live, new=new)


def kolmogorov_smirnov(reference: np.ndarray, live: np.ndarray, direction: Direction) -> float:
    """Two-sample Kolmogorov-Smirnov distance of ordered cells; 0 when either is empty."""
    if not reference.sum() or not live.sum():
        return 0.0
    above = np.cumsum(reference) / reference.sum() - np.cumsum(live) / live.sum()
    if direction == "both":
        return float(np.abs(above).max())
    return max(0.0, float(above.max() if direction == "up" else -above.min()))


def total_variation(reference: np.ndarray, live: np.ndarray) -> float:
    """Half the sum of absolute differences of shares; 0 when either is empty."""
    if not reference.sum() or not live.sum():
        return 0.0
    return float(np.abs(reference / reference.sum() - live / live.sum()).sum() / 2)


def population_stability_index(reference: np.ndarray, live: np.ndarray) -> float:
    """PSI = sum (q - p) ln(q / p) (Siddiqi, "Credit Risk Scorecards", 2006, ch. 8), cells smoothed."""
    p, q = _smoothed(reference), _smoothed(live)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(reference: np.ndarray, live: np.ndarray) -> float:
    """Jensen-Shannon distance in [0, 1]: root of the divergence in bits (Endres and Schindelin 2003), smoothed."""
    p, q = _smoothed(reference), _smoothed(live)
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle)).sum() / 2 + (q * np.log2(q / middle)).sum() / 2
    return float(np.sqrt(max(0.0, divergence)))


def chi_square(reference: np.ndarray, live: np.ndarray) -> tuple[float, int]:
    """Pearson's two-sample homogeneity statistic and its degrees of freedom; cells empty in both are left out."""
    n, m = reference.sum(), live.sum()
    pooled = reference + live
    used = pooled > 0
    if not n or not m or used.sum() < 2:
        return 0.0, 0
    expected = pooled[used] * m / (n + m)
    statistic = (np.square(live[used] - expected) / expected).sum() * (n + m) / n
    return float(statistic), int(used.sum()) - 1


def deciles(cells: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Pool the bins of a number column into tenths of the reference's mass; missing and invalid stay apart."""
    mass = reference[:-TRAILING_CELLS]
    middles = np.cumsum(mass) - mass / 2
    tenth = np.minimum(middles * PSI_BINS // max(1, mass.sum()), PSI_BINS - 1).astype(int)
    pooled = np.bincount(tenth, weights=cells[:-TRAILING_CELLS], minlength=PSI_BINS)
    kept = np.isin(np.arange(PSI_BINS), tenth)
    return np.append(pooled[kept], cells[-TRAILING_CELLS:])


def _distances(statistic: float, reference: np.ndarray, live: np.ndarray, new: float) -> Distances:
    chi, freedom = chi_square(reference, live)
    missing = -TRAILING_CELLS
    return Distances(
        rows=int(live.sum()),
        reference_rows=int(reference.sum()),
        statistic=statistic,
        psi=population_stability_index(reference, live),
        jensen_shannon=jensen_shannon(reference, live),
        chi_square=chi,
        freedom=freedom,
        nulls=float(live[missing] / max(1, live.sum()) - reference[missing] / max(1, reference.sum())),
        new=new,
    )


def _trailing(reference: np.ndarray, live: np.ndarray) -> float:
    """The largest change in the share of missing or of invalid cells; 0 when either side is empty."""
    n, m = live.sum(), reference.sum()
    if not n or not m:
        return 0.0
    return float(np.abs(live[-TRAILING_CELLS:] / n - reference[-TRAILING_CELLS:] / m).max())


def _smoothed(cells: np.ndarray) -> np.ndarray:
    raised = cells + SMOOTHING
    return np.asarray(raised / raised.sum())
