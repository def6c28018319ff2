"""The reference profile: the training data as a whole, and its windows.

The whole is a full profile. Each window (such as a day) is stored as counts in bins that the whole defines, about a
hundred bytes for each column, so that a monitor knows how far ordinary windows are from the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from cluster.errors import DataError
from cluster.values import Frozen, Stored
from features.definitions import Column, require_present
from features.profiles.column_sketches import CategorySummary, NumberSummary
from features.profiles.profile import Profile

FINE_BINS = 40
"""Bins of equal reference mass for a number: the error of a Kolmogorov-Smirnov distance is at most 1/40."""
MIN_SHARE = 0.005
"""Rarer category values are counted together."""
TRAILING_CELLS = 2
"""The last cells of every column: missing, and invalid (infinite or of a wrong type)."""

_MICROSECONDS = 1_000_000


class Bins(Frozen):
    """The cells in which the values of a column are counted.

    number: (-inf, e0], (e0, e1], ..., (ek, inf), missing, invalid.
    category: each of ``values``, the pooled ``rare`` ones, new ones, missing, invalid. When ``complete`` is false, the
    reference does not list all of its values, and unknown values count as rare.
    """

    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    complete: bool = True

    @classmethod
    def for_number(cls, summary: NumberSummary) -> Self:
        """Define bins of equal mass."""
        edges = np.unique(summary.quantiles(np.arange(1, FINE_BINS) / FINE_BINS))
        return cls(edges=tuple(float(e) for e in edges if e < summary.max))

    @classmethod
    def for_category(cls, summary: CategorySummary) -> Self:
        """Define a bin for each value that is not rare."""
        least = MIN_SHARE * summary.count
        listed = sorted(value for value, count in summary.counts.items() if count >= least)
        rare = sorted(value for value, count in summary.counts.items() if count < least)
        return cls(values=tuple(listed), rare=tuple(rare), complete=summary.other == 0)

    def count_number(self, summary: NumberSummary) -> np.ndarray:
        """Count a number column, int64 [edges + 3]."""
        below = np.append(np.rint(summary.cdf(np.array(self.edges)) * summary.count), summary.count)
        cells = np.diff(below, prepend=0.0)
        return np.append(cells, [summary.nulls, summary.infinite + summary.mistyped]).astype(np.int64)

    def count_category(self, summary: CategorySummary) -> np.ndarray:
        """Count a category column, int64 [values + 4]."""
        listed = [summary.counts.get(value, 0) for value in self.values]
        rare = sum(summary.counts.get(value, 0) for value in self.rare)
        rest = summary.count - sum(listed) - rare
        pooled = [rare, rest] if self.complete else [rare + rest, 0]
        return np.array([*listed, *pooled, summary.nulls, summary.mistyped], np.int64)


class _ReferenceRecord(Stored, stored_as="reference profile"):
    window_s: float
    starts: tuple[float, ...]
    bins: dict[str, Bins]
    cells: dict[str, tuple[tuple[int, ...], ...]]
    total: str


@dataclass(eq=False)
class ReferenceProfile:
    """Profile of the training data, and counts of its windows.

    Attributes:
        total: Profile of all rows.
        window_s: Length of a window in seconds.
        starts: Starts of the windows, seconds since the epoch, ascending.
        bins: Bins of each column.
        cells: Counts of each window in the bins of a column, int64 [windows, cells].
    """

    total: Profile
    window_s: float
    starts: tuple[float, ...]
    bins: dict[str, Bins]
    cells: dict[str, np.ndarray]

    @classmethod
    def build(cls, windows: Mapping[float, Profile], window_s: float) -> Self:
        """Build from the profiles of all windows.

        Args:
            windows: Result of ``profile_windows``.
            window_s: Length of a window in seconds.

        Raises:
            DataError: There are no windows.
        """
        if not windows:
            raise DataError("data.profile_without_rows")
        starts = tuple(sorted(windows))
        total = Profile.empty(windows[starts[0]].columns)
        for start in starts:
            total.merge(windows[start])
        bins = {name: Bins.for_number(s) for name, s in total.numbers.items()}
        bins |= {name: Bins.for_category(s) for name, s in total.categories.items()}
        counted = [count_cells(bins, windows[start]) for start in starts]
        cells = {name: np.stack([window[name] for window in counted]) for name in bins}
        return cls(total, window_s, starts, bins, cells)

    def to_bytes(self) -> bytes:
        """Serialize as JSON."""
        cells = {name: counts.tolist() for name, counts in self.cells.items()}
        stored = vars(self) | {"cells": cells, "total": self.total.to_bytes().decode()}
        return _ReferenceRecord(**stored).model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises:
            DataError: ``data`` is not a reference profile that this version can read.
        """
        try:
            record = _ReferenceRecord.from_stored(data)
            cells = {name: np.array(counts, np.int64) for name, counts in record.cells.items()}
        except (ValueError, OverflowError) as error:
            raise DataError("data.invalid_profile", size=len(data), reason=str(error).splitlines()[0]) from error
        if set(cells) != set(record.bins) or any(len(counts) != len(record.starts) for counts in cells.values()):
            raise DataError("data.invalid_profile", size=len(data), reason="the windows do not match the bins")
        return cls(Profile.from_bytes(record.total.encode()), record.window_s, record.starts, record.bins, cells)


def count_cells(bins: Mapping[str, Bins], profile: Profile) -> dict[str, np.ndarray]:
    """Count a profile in bins, column by column.

    Raises:
        DataError: The profile lacks a column.
    """
    require_present(bins, [*profile.numbers, *profile.categories], "the profile")
    return {
        name: binning.count_number(profile.numbers[name])
        if name in profile.numbers
        else binning.count_category(profile.categories[name])
        for name, binning in bins.items()
    }


def profile_windows(
    frame: pa.Table, columns: tuple[Column, ...], window_s: float, time: str = "as_of"
) -> dict[float, Profile]:
    """Profile the rows of a frame by time window.

    Args:
        frame: The rows.
        columns: Columns to profile.
        window_s: Length of a window in seconds; windows start at its multiples.
        time: Column that dates the rows.

    Returns:
        Profiles by window start, seconds since the epoch.

    Raises:
        DataError: A row has no time.
    """
    when = frame.column(time)
    if when.null_count:
        raise DataError("data.rows_without_time", column=time, rows=when.null_count)
    micros = when.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    starts = np.floor_divide(micros.to_numpy(), round(window_s * _MICROSECONDS)) * window_s
    windows = {}
    for start in np.unique(starts):
        windows[float(start)] = Profile.empty(columns)
        windows[float(start)].update(frame.filter(pa.array(starts == start)))
    return windows
