"""The reference profile: the training data as a whole, and how its ordinary windows differ from it.

The whole is a full profile. Each window (a day, say) is kept as counts in bins that the whole fixes,
some hundred bytes a column, so that a monitor can tell how far ordinary windows lie from the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from cluster.errors import DataError
from cluster.values import Frozen, Stored
from features.definitions import Column
from features.profiles.column_sketches import CategorySummary, NumberSummary
from features.profiles.profile import Profile

FINE_BINS = 40
"""Bins of equal reference mass for a number: a Kolmogorov-Smirnov distance is off by at most 1/40."""
MIN_SHARE = 0.005
"""Category values that are rarer than this are counted together."""
TRAILING_CELLS = 2
"""The last two cells of every column: missing, and invalid (infinite or of a wrong type)."""

_MICROSECONDS = 1_000_000


class Bins(Frozen):
    """How a column is cut into cells.

    number: (-inf, e0], (e0, e1], ..., (ek, inf), missing, invalid.
    category: each of ``values``, the pooled ``rare`` ones, new ones, missing, invalid. While
    ``complete`` is false the reference forgot some values, and what is unknown counts as rare.
    """

    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()
    complete: bool = True

    @classmethod
    def for_number(cls, summary: NumberSummary) -> Self:
        ranks = np.arange(1, FINE_BINS) / FINE_BINS
        edges = np.unique(summary.quantiles(ranks))
        return cls(edges=tuple(float(e) for e in edges if e < summary.max))

    @classmethod
    def for_category(cls, summary: CategorySummary) -> Self:
        least = MIN_SHARE * summary.count
        listed = sorted(value for value, count in summary.counts.items() if count >= least)
        rare = sorted(value for value, count in summary.counts.items() if count < least)
        return cls(values=tuple(listed), rare=tuple(rare), complete=summary.other == 0)

    def count_number(self, summary: NumberSummary) -> np.ndarray:
        """Cells of a number column, int64 [edges + 3]."""
        below = np.append(np.rint(summary.cdf(np.array(self.edges)) * summary.count), summary.count)
        cells = np.diff(below, prepend=0.0)
        return np.append(cells, [summary.nulls, summary.infinite + summary.mistyped]).astype(np.int64)

    def count_category(self, summary: CategorySummary) -> np.ndarray:
        """Cells of a category column, int64 [values + 4]."""
        listed = [summary.counts.get(value, 0) for value in self.values]
        rare = sum(summary.counts.get(value, 0) for value in self.rare)
        rest = summary.count - sum(listed) - rare
        pooled = [rare, rest] if self.complete else [rare + rest, 0]
        return np.array([*listed, *pooled, summary.nulls, summary.mistyped], np.int64)


class _ReferenceRecord(Stored):
    stored_as: ClassVar[str] = "reference profile"

    window_s: float
    starts: tuple[float, ...]
    bins: dict[str, Bins]
    cells: dict[str, tuple[tuple[int, ...], ...]]
    total: str


class ReferenceProfile:
    """``total``: profile of all rows. ``starts``: window starts, seconds since the epoch, ascending.

    ``cells[name]``: int64 [windows, cells], the counts of each window in ``bins[name]``.
    """

    def __init__(
        self,
        total: Profile,
        window_s: float,
        starts: tuple[float, ...],
        bins: dict[str, Bins],
        cells: dict[str, np.ndarray],
    ) -> None:
        self.total = total
        self.window_s = window_s
        self.starts = starts
        self.bins = bins
        self.cells = cells

    @classmethod
    def build(cls, windows: Mapping[float, Profile], window_s: float) -> Self:
        """From the profiles of all windows, as ``profile_windows`` makes them. Raises DataError when there is none."""
        if not windows:
            raise DataError("a reference profile of no rows", "is the training frame empty?")
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
        """JSON."""
        cells = {name: tuple(map(tuple, counts.tolist())) for name, counts in self.cells.items()}
        wire = _ReferenceRecord(
            window_s=self.window_s,
            starts=self.starts,
            bins=self.bins,
            cells=cells,
            total=self.total.to_bytes().decode(),
        )
        return wire.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises DataError when ``data`` is not a reference profile."""
        try:
            wire = _ReferenceRecord.from_stored(data)
            cells = {name: np.array(counts, np.int64) for name, counts in wire.cells.items()}
        except (ValidationError, ValueError, OverflowError) as error:
            what = str(error).splitlines()[0]
            raise DataError(f"{len(data)} bytes that are not a reference profile: {what}") from error
        if set(cells) != set(wire.bins) or any(len(counts) != len(wire.starts) for counts in cells.values()):
            raise DataError("a reference profile whose windows do not fit its bins")
        return cls(Profile.from_bytes(wire.total.encode()), wire.window_s, wire.starts, wire.bins, cells)


def count_cells(bins: Mapping[str, Bins], profile: Profile) -> dict[str, np.ndarray]:
    """The counts of ``profile`` in ``bins``, column by column. Raises DataError when a column is not in it."""
    counted = {}
    for name, cut in bins.items():
        if name in profile.numbers:
            counted[name] = cut.count_number(profile.numbers[name])
        elif name in profile.categories:
            counted[name] = cut.count_category(profile.categories[name])
        else:
            raise DataError(f"the profile lacks column {name!r}", "profile the same columns as the reference")
    return counted


def profile_windows(
    frame: pa.Table, columns: tuple[Column, ...], window_s: float, time: str = "as_of"
) -> dict[float, Profile]:
    """Profiles of the rows of ``frame`` by event-time window, keyed by window start in seconds since the epoch.

    Windows start at whole multiples of ``window_s``. Raises DataError when a row has no time.
    """
    when = frame.column(time)
    if when.null_count:
        raise DataError(f"{when.null_count} rows without {time!r}", "every row of a training frame needs its time")
    micros = when.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    starts = np.floor_divide(micros.to_numpy(), round(window_s * _MICROSECONDS)) * window_s
    windows = {}
    for start in np.unique(starts):
        windows[float(start)] = Profile.empty(columns)
        windows[float(start)].update(frame.filter(pa.array(starts == start)))
    return windows


def merge_windows(into: dict[float, Profile], more: Mapping[float, Profile]) -> None:
    """Add the profiles of another part of the same data."""
    for start, profile in more.items():
        if start in into:
            into[start].merge(profile)
        else:
            into[start] = profile
