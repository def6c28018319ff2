"""Test all statistics of all columns of a live run: one p-value a column. Pure.

The nulls are those of the alarm distance, sampling and ordinary variation, and the larger p-value counts; here both
come from draws, for every statistic and not only for the largest difference of shares. Draws are seeded by the column's
name: the same run always gets the same p-values.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np

from features.profiles.column_sketches import SKETCH_K, CategorySummary, NumberSummary
from features.profiles.profile import Profile
from features.profiles.reference_profile import Bins, count_cells
from monitoring.statistics import null_distributions
from monitoring.statistics.drift_reference import DriftReference
from monitoring.statistics.null_distributions import MIN_RUNS, SCREENING_LEVEL, Significance

RANK_ERROR = 0.6 / SKETCH_K
"""Standard deviation of a rank in a sketch that dropped rows; measured 0.53 / k, for any number of rows."""


def p_values(drift_reference: DriftReference, live: Profile) -> dict[str, Significance]:
    """Test each column of a live run against the reference.

    Raises:
        DataError: ``live`` lacks a column.
    """
    tested = {}
    for name, cells in count_cells(drift_reference.profile.bins, live).items():
        summary = live.categories.get(name)
        if summary is not None:
            cells = drop_doubtful_values(cells, drift_reference.profile.bins[name], summary)
        tested[name] = _test_column(drift_reference, name, cells, live.numbers.get(name))
    return tested


def drop_doubtful_values(cells: np.ndarray, bins: Bins, summary: CategorySummary) -> np.ndarray:
    """Remove from a category's new values those that may be known ones.

    A summary that dropped values counts each known one too low by at most its shortfall; as many rows move from the new
    cell to the rare one, of which nothing is known either.

    Args:
        cells: Counts of the column, [cells].
        bins: Bins of the column.
        summary: The live summary that was counted.

    Returns:
        Corrected counts, [cells].
    """
    doubtful = min(int(cells[-3]), summary.shortfall * (len(bins.values) + len(bins.rare)))
    moved = cells.copy()
    moved[-4] += doubtful
    moved[-3] -= doubtful
    return moved


def rank_error(summary: NumberSummary) -> float:
    """Standard deviation of a rank in the summary's sketch; 0 while it holds every value."""
    return RANK_ERROR if summary.sketch.is_estimation_mode() else 0.0


def _test_column(
    drift_reference: DriftReference, name: str, cells: np.ndarray, summary: NumberSummary | None
) -> Significance:
    whole, column = drift_reference.total_cells[name], drift_reference.statistics[name]
    rng = np.random.default_rng(crc32(name.encode()))
    errors = (0.0, 0.0)
    if summary is not None:
        errors = _reference_rank_error(drift_reference.profile.cells[name]), rank_error(summary)
    runs = drift_reference.run_cells(name)
    ordinary = Significance(0.0, {})
    if len(runs) >= MIN_RUNS:
        ordinary = null_distributions.reference_runs_test(column, whole, runs, cells, rng)
    # The larger p-value counts, and variation is the cheaper one: a run that is ordinary by it is not tested further.
    if ordinary.p_value > SCREENING_LEVEL:
        return ordinary
    sampling = null_distributions.permutation_test(column, whole, cells, rng, errors)
    return ordinary if ordinary.p_value > sampling.p_value else sampling


def _reference_rank_error(windows: np.ndarray) -> float:
    """Standard deviation of a rank in the sum of ``windows`` [windows, cells], each counted from its own sketch."""
    rows = windows.sum(axis=1).astype(float)
    dropped = np.where(rows > SKETCH_K, rows, 0.0)
    return RANK_ERROR * math.sqrt(float(dropped @ dropped)) / max(1.0, float(rows.sum()))
