"""Cell counts of columns, and the statistics that fit them."""

from __future__ import annotations

import numpy as np

from features.profiles.column_sketches import NumberSummary
from features.profiles.reference_profile import TRAILING_CELLS, Bins
from monitoring.statistics.drift_statistics import ColumnStatistics, Direction

CATEGORY = ColumnStatistics()


def summarize(values: np.ndarray) -> NumberSummary:
    summary = NumberSummary()
    summary.add(values)
    return summary


def number_column(reference: np.ndarray, direction: Direction = "both") -> ColumnStatistics:
    """Statistics of a number with these reference counts; its bins are one standard deviation wide."""
    mass = reference[:-TRAILING_CELLS]
    return ColumnStatistics(mass, np.append(np.ones(len(mass) - 2), 0.0), False, direction)


def sampled_column(
    values: np.ndarray, direction: Direction = "both"
) -> tuple[Bins, np.ndarray, ColumnStatistics, NumberSummary]:
    """Bins, counts, statistics and summary of a number column with these reference values."""
    summary = summarize(values)
    bins = Bins.for_number(summary)
    cells = bins.count_number(summary)
    return bins, cells, ColumnStatistics.of_number(bins, cells, summary.std, direction), summary


def measure_one(column: ColumnStatistics, reference: np.ndarray, live: np.ndarray) -> dict[str, float]:
    """Every statistic of one pair of samples, by name."""
    return dict(zip(column.names, column.measure(reference[None], live[None])[0].tolist(), strict=True))
