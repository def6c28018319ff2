"""How far a live sample of a column is from its reference, in the distance that raises alarms. Pure.

The distance is the largest difference in the share of rows, sup |P(A) - Q(A)|, over a class of sets A that fits the
column. It has the same meaning for all columns: 0.2 means that a fifth of the rows moved.

    number, both     A = {x <= t} for any t      Kolmogorov-Smirnov, D
    number, up       A = {x > t}, live - ref     one-sided, D+: live values are larger
    number, down     A = {x <= t}, live - ref    one-sided, D-: live values are smaller
    category         A = any set of values       total variation
    any              A = {missing}, {invalid}    the larger of these and the above counts

PSI, Jensen-Shannon and chi-square are also reported, because users know them
(monitoring/statistics/drift_statistics.py).
"""

from __future__ import annotations

import numpy as np

from cluster.values import Frozen
from features.profiles.reference_profile import TRAILING_CELLS
from monitoring.statistics import drift_statistics
from monitoring.statistics.drift_statistics import ColumnStatistics, SamplePairs


class Distances(Frozen):
    """Distances of one column between a live sample and the reference."""

    rows: int
    """Live cells of any sort."""
    reference_rows: int
    """Reference cells of any sort."""
    statistic: float
    """The distance that raises alarms, in [0, 1]."""
    psi: float
    jensen_shannon: float
    chi_square: float
    freedom: int
    """Degrees of freedom of ``chi_square``."""
    nulls: float
    """Live share of missing cells less the reference's."""
    new: float = 0.0
    """Live share of category values that the reference lacks."""


def measure_distances(column: ColumnStatistics, reference: np.ndarray, live: np.ndarray) -> Distances:
    """Measure all reported distances of a column from counts [cells]."""
    pairs = SamplePairs(column, reference[None], live[None])
    rows, reference_rows = int(live.sum()), int(reference.sum())
    missing = -TRAILING_CELLS
    return Distances(
        rows=rows,
        reference_rows=reference_rows,
        statistic=float(alarm_distance(pairs)[0]),
        psi=float(drift_statistics.psi(pairs)[0]),
        jensen_shannon=float(drift_statistics.jensen_shannon(pairs)[0]),
        chi_square=float(drift_statistics.chi_square(pairs)[0]),
        freedom=max(0, int(np.count_nonzero(np.add(*pairs.pooled_counts))) - 1) if rows and reference_rows else 0,
        nulls=float(live[missing] / max(1, rows) - reference[missing] / max(1, reference_rows)),
        new=float(live[missing - 1] / max(1, rows)) if column.categorical else 0.0,
    )


def alarm_distance(pairs: SamplePairs) -> np.ndarray:
    """The distance that raises alarms, [pairs], in [0, 1]; 0 when either sample is empty."""
    moved = _total_variation(pairs) if pairs.column.categorical else drift_statistics.kolmogorov_smirnov(pairs)
    missing_or_invalid = _share_change(pairs.reference, pairs.live)[:, -TRAILING_CELLS:].max(axis=1)
    return np.asarray(np.maximum(moved, missing_or_invalid))


def _total_variation(pairs: SamplePairs) -> np.ndarray:
    """Half the sum of absolute differences of shares of values; 0 when either sample has none."""
    values = slice(None, -TRAILING_CELLS)
    return np.asarray(_share_change(pairs.reference[:, values], pairs.live[:, values]).sum(axis=1) / 2)


def _share_change(reference: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Absolute differences of shares, [pairs, cells]; 0 when either sample is empty."""
    n, m = (cells.sum(axis=1, keepdims=True) for cells in (reference, live))
    return np.where((n > 0) & (m > 0), np.abs(reference / np.maximum(n, 1) - live / np.maximum(m, 1)), 0.0)
