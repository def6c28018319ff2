"""What live windows are compared with: a reference profile and the null distribution of each of its columns.

Pure. The null distributions and their assumption: monitoring/statistics/null_distributions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import ProjectError
from cluster.values import Frozen
from features.profiles.profile import Profile
from features.profiles.reference_profile import TRAILING_CELLS, ReferenceProfile, count_cells
from monitoring.statistics.distances import Distances, alarm_distance, measure_distances
from monitoring.statistics.drift_statistics import ColumnStatistics, Direction, SamplePairs
from monitoring.statistics.null_distributions import DistanceNull


class MonitoredColumn(Frozen):
    """A column that can raise an alarm."""

    column: str
    """Name of a profiled column: a feature, or the model's ``score`` or ``predicted`` class."""
    direction: Direction = "both"
    """"up" when only values larger than in training matter, "down" when only smaller ones do. Missing and invalid cells
    count either way. A category has no direction."""


class DriftReference:
    """A reference profile with the null distribution of every column, for runs of windows.

    Attributes:
        profile: The reference profile.
        monitored_columns: Columns that can raise an alarm.
        directions: Direction of each column.
        total_cells: Counts of each column over the whole reference, [cells].
        statistics: Statistics that fit each column.
        nulls: Null distribution of each column's distance.
    """

    def __init__(
        self, reference: ReferenceProfile, span: int, watch: Sequence[MonitoredColumn], window_rows: int | None = None
    ) -> None:
        """Fit the null distribution of every column.

        Args:
            reference: The reference profile.
            span: Windows in a run.
            watch: Columns that can raise an alarm; empty for all.
            window_rows: Rows in a run: a run then consists of as many successive windows as it needs to reach
                this number, instead of ``span``.

        Raises:
            ProjectError: A monitored column is not profiled, or a category has a direction.
        """
        self.profile = reference
        self.span = span
        rows = next(iter(reference.cells.values())).sum(axis=1)
        self._ends = None if window_rows is None else find_run_ends(rows, window_rows)
        directions = _directions(reference, watch)
        self.monitored_columns = tuple(directions) if directions else tuple(reference.bins)
        self.directions: dict[str, Direction] = {name: directions.get(name, "both") for name in reference.bins}
        self.total_cells = {name: cells.sum(axis=0) for name, cells in reference.cells.items()}
        self.statistics = {name: self._statistics(name) for name in reference.bins}
        self.nulls = {name: self._null(name) for name in reference.bins}

    @property
    def runs(self) -> int:
        """Runs that the reference contains."""
        return max(0, len(self.profile.starts) - self.span + 1) if self._ends is None else len(self._ends)

    def run_cells(self, name: str) -> np.ndarray:
        """Counts of a column in each of the reference's own runs that has rows, [runs, cells]."""
        cells = self.profile.cells[name]
        if self._ends is None:
            runs = sum_runs(cells, self.span)
        else:
            parts = np.split(cells, self._ends)[: len(self._ends)]
            runs = np.stack([part.sum(axis=0) for part in parts]) if parts else np.empty((0, cells.shape[1]), np.int64)
        return np.asarray(runs[runs.sum(axis=1) > 0])

    def distances(self, live: Profile) -> dict[str, Distances]:
        """Compare every column of a live run with the reference.

        Raises:
            DataError: ``live`` lacks a column.
        """
        return {
            name: measure_distances(self.statistics[name], self.total_cells[name], cells)
            for name, cells in count_cells(self.profile.bins, live).items()
        }

    def _statistics(self, name: str) -> ColumnStatistics:
        if name in self.profile.total.categories:
            return ColumnStatistics()
        std = self.profile.total.numbers[name].std
        return ColumnStatistics.of_number(self.profile.bins[name], self.total_cells[name], std, self.directions[name])

    def _null(self, name: str) -> DistanceNull:
        whole, runs, column = self.total_cells[name], self.run_cells(name), self.statistics[name]
        distances = alarm_distance(SamplePairs(column, whole - runs, runs))
        shares = whole[:-TRAILING_CELLS] / max(1, whole.sum()) if column.categorical else np.empty(0)
        overlap = self.span if self._ends is None else 1
        return DistanceNull(distances, runs.sum(axis=1), shares, column.direction, overlap)


def sum_runs(cells: np.ndarray, span: int) -> np.ndarray:
    """Counts of every run of ``span`` successive windows: [windows, cells] to [windows - span + 1, cells]."""
    if len(cells) < span:
        return np.empty((0, cells.shape[1]), np.int64)
    summed = np.cumsum(cells, axis=0)
    summed[span:] -= summed[:-span].copy()
    return summed[span - 1 :]


def find_run_ends(rows: np.ndarray, window_rows: int) -> list[int]:
    """Split successive windows into runs that each contain at least ``window_rows`` rows.

    Args:
        rows: Rows of each window, [windows].
        window_rows: Rows in a run.

    Returns:
        The index after each run's last window. The remainder at the end is not a run.
    """
    ends, rows_in_run = [], 0
    for i, count in enumerate(rows):
        rows_in_run += int(count)
        if rows_in_run >= window_rows:
            ends.append(i + 1)
            rows_in_run = 0
    return ends


def count_discoveries(p_values: Mapping[str, float], alpha: float) -> int:
    """How many hypotheses Benjamini and Hochberg (1995) reject at false discovery rate ``alpha``."""
    if not p_values:
        return 0
    # scipy.stats takes more than a second to import, and whatever loads a project's drift policy loads this module.
    from scipy import stats

    return int(np.count_nonzero(stats.false_discovery_control(list(p_values.values()), method="bh") <= alpha))


def _directions(reference: ReferenceProfile, watch: Sequence[MonitoredColumn]) -> dict[str, Direction]:
    for each in watch:
        if each.column not in reference.bins:
            raise ProjectError("project.unknown_monitored_column", column=each.column, choices=list(reference.bins))
        if each.direction != "both" and each.column in reference.total.categories:
            raise ProjectError("project.directed_category", column=each.column)
    return {each.column: each.direction for each in watch}
