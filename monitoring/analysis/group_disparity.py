"""Differences of a rate between groups of the live traffic, watched from window to window. Pure.

A confidence sequence begins with every window and covers the rows from there on, however often it is read and however
late labels come: exact bounds of the differences of two rates (monitoring/performance/loss_bounds.py), of which the
pairs of groups share the error. A limit is exceeded while one of the sequences excludes it (Shekhar, Ramdas, "Reducing
sequential change detection to sequential estimation", 2023). Each sequence spends what its first window may spend, so
the levels of a month's windows add up to the budget, and a difference that begins late is not diluted by the windows
before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from cluster.values import Frozen, Task
from features.disparity import DisparityLimit, group_names, rate_hits
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.performance.loss_bounds import RateCount, least_difference, log_e_difference
from monitoring.samples.logged_rows import LoggedRows


class GroupDisparity(Frozen):
    """Rates of a column's groups, in the windows from ``since`` on."""

    name: str
    """That of the limit."""
    limit: float
    since: float
    """Start of the first window, seconds since the epoch."""
    groups: dict[str, RateCount]
    """Of the groups with rows."""
    low: float
    """What the largest difference is at least, with confidence."""

    @property
    def extremes(self) -> tuple[str, ...]:
        """The groups with the highest and with the lowest rate; none without groups."""
        rates = {name: count.value for name, count in self.groups.items()}
        return (max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)) if rates else ()

    @property
    def difference(self) -> float:
        """The observed difference of the extremes."""
        rates = [self.groups[name].value for name in self.extremes]
        return rates[0] - rates[1] if rates else 0.0

    @property
    def exceeded(self) -> bool:
        """The limit is exceeded with confidence."""
        return self.low > self.limit


class _Sequence(NamedTuple):
    """Counts of the groups from a window on."""

    since: float
    groups: dict[str, RateCount]

    @property
    def pairs(self) -> list[tuple[RateCount, RateCount]]:
        """Every two groups, the higher rate first."""
        ordered = sorted(self.groups.values(), key=lambda count: -count.value)
        return list(combinations(ordered, 2))

    def log_e(self, limit: DisparityLimit) -> float:
        """The strongest evidence that two groups differ by more than the limit."""
        return max((log_e_difference(*pair, limit.max_difference) for pair in self.pairs), default=0.0)


def measure_disparities(
    windows: Sequence[tuple[float, LoggedRows]], task: Task, policy: DriftPolicy, settings: LogAnalysisPolicy
) -> tuple[GroupDisparity, ...]:
    """Compare the groups of each limit.

    Args:
        windows: Start and rows of each window, ascending; rows in the order of the sample.
        task: Task of the model.
        policy: Level of a window.
        settings: Limits, and how many rows of a window count.

    Returns:
        For each limit the sequence with the strongest evidence that it is exceeded; while none has any, the longest.
    """
    level = policy.level("fairness")
    if not level:
        return ()
    # The sample of a window shrinks when newer ones close. Rows that stay in it whatever comes make a sequence.
    kept = settings.rows_per_window(math.ceil(settings.label_wait_s / policy.window_s))
    sampled = [(start, rows.select(np.arange(min(len(rows), kept)))) for start, rows in windows]
    alpha = level / len(settings.disparity)
    return tuple(_measure(limit, task, sampled, alpha) for limit in settings.disparity)


def _measure(
    limit: DisparityLimit, task: Task, windows: Sequence[tuple[float, LoggedRows]], alpha: float
) -> GroupDisparity:
    counts = np.array([_count(limit, task, rows) for _, rows in windows])
    from_each = counts[::-1].cumsum(axis=0)[::-1]
    sequences = [_sequence(limit, start, totals) for (start, _), totals in zip(windows, from_each, strict=True)]
    surest = max(sequences, key=lambda sequence: (sequence.log_e(limit), -sequence.since))
    # All pairs of the limit, also those without rows yet: their number must not depend on when they come.
    of_pair = alpha / math.comb(len(limit.groups), 2)
    low = max((least_difference(*pair, of_pair) for pair in surest.pairs), default=0.0)
    return GroupDisparity(
        name=limit.name, limit=limit.max_difference, since=surest.since, groups=surest.groups, low=low
    )


def _sequence(limit: DisparityLimit, since: float, totals: np.ndarray) -> _Sequence:
    counts = {name: RateCount(int(n), int(hits)) for name, (n, hits) in zip(limit.groups, totals, strict=True)}
    return _Sequence(since, {name: count for name, count in counts.items() if count.rows})


def _count(limit: DisparityLimit, task: Task, rows: LoggedRows) -> np.ndarray:
    """Rows in the rate and hits of each group, [groups, 2]; none where an earlier project did not log the column."""
    if limit.column not in rows.frame.column_names:
        return np.zeros((len(limit.groups), 2), np.int64)
    names, hits = group_names(rows.frame.column(limit.column)), rate_hits(limit, task, rows.scores, rows.labels)
    of_groups = [hits[(names == name) & np.isfinite(hits)] for name in limit.groups]
    return np.array([(len(of_group), of_group.sum()) for of_group in of_groups], np.int64)
