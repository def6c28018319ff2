"""All statistics of all columns of a live run, as one p-value a column. Pure.

The same two nulls as in monitoring/statistics/calibration.py, sampling and ordinary variation, of which the larger p-value counts:
here by draws, and for every statistic, not for the largest difference of shares alone. Draws are seeded by the
column's name: the same run gets the same p-values, whoever asks.
"""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np

from features.profiles.column_sketches import SKETCH_K, CategorySummary, NumberSummary
from features.profiles.profile import Profile
from features.profiles.reference_profile import Bins, count_cells
from monitoring.statistics.batched_statistics import Battery
from monitoring.statistics.calibration import MIN_RUNS, Calibration
from monitoring.statistics.null_distributions import GOING_ON, Chance, by_sampling, by_variation

RANK_ERROR = 0.6 / SKETCH_K
"""Standard deviation of a rank in a sketch that dropped rows; measured 0.53 / k, whatever the number of rows."""
MONTH_S = 30 * 86_400.0


def chances(calibration: Calibration, live: Profile) -> dict[str, Chance]:
    """What chance says of each column. Raises DataError when ``live`` lacks one."""
    found = {}
    for name, cells in count_cells(calibration.reference.bins, live).items():
        summary = live.categories.get(name)
        if summary is not None:
            cells = certain(cells, calibration.reference.bins[name], summary)
        found[name] = _chance(calibration, name, cells, live.numbers.get(name))
    return found


def alpha_per_window(false_alarms: float, window_s: float) -> float:
    """The level of a window at which ``false_alarms`` are expected in 30 days without drift.

    Expectations add up whatever windows have in common, so that runs which overlap need no correction: each of the
    month's windows may spend the same part. At most 0.5.
    """
    return min(0.5, false_alarms * window_s / MONTH_S)


def certain(cells: np.ndarray, bins: Bins, summary: CategorySummary) -> np.ndarray:
    """Cells of a category without the new values that may be known ones.

    A summary that dropped values counts each known one too low by its shortfall at most; as many rows are moved from the
    new cell to the rare one, of which nothing is known either.
    """
    doubtful = min(int(cells[-3]), summary.shortfall * (len(bins.values) + len(bins.rare)))
    moved = cells.copy()
    moved[-4] += doubtful
    moved[-3] -= doubtful
    return moved


def _chance(calibration: Calibration, name: str, cells: np.ndarray, summary: NumberSummary | None) -> Chance:
    whole, rng = calibration.whole[name], np.random.default_rng(crc32(name.encode()))
    battery, errors = Battery(), (0.0, 0.0)
    if summary is not None:
        battery = _battery(calibration, name)
        errors = _whole_error(calibration.reference.cells[name]), rank_error(summary)
    runs = calibration.run_cells(name)
    runs = runs[runs.sum(axis=1) > 0]
    ordinary = by_variation(battery, whole, runs, cells, rng) if len(runs) >= MIN_RUNS else Chance(0.0, {})
    # The larger p-value counts, and variation is the cheaper one: a run that is ordinary by it is not tested further.
    if ordinary.p_value > GOING_ON:
        return ordinary
    chance = by_sampling(battery, whole, cells, rng, errors)
    return ordinary if ordinary.p_value > chance.p_value else chance


def _battery(calibration: Calibration, name: str) -> Battery:
    bins, std = calibration.reference.bins[name], calibration.reference.total.numbers[name].std
    return Battery.of_number(bins, calibration.whole[name], std, calibration.directions[name])


def rank_error(summary: NumberSummary) -> float:
    """Standard deviation of a rank in the summary's sketch; 0 while it holds every value."""
    return RANK_ERROR if summary.sketch.is_estimation_mode() else 0.0


def _whole_error(windows: np.ndarray) -> float:
    """The same for the sum of ``windows`` [windows, cells], each counted from a sketch of its own."""
    rows = windows.sum(axis=1).astype(float)
    dropped = np.where(rows > SKETCH_K, rows, 0.0)
    return RANK_ERROR * math.sqrt(float(dropped @ dropped)) / max(1.0, float(rows.sum()))
