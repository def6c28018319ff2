"""Many entities' times in one array, and where in it a time of an entity stands: found for many rows at once. Pure.

Entity and time are run together into one number, so that entities stand behind one another on one line, and rows that are
sorted along it are found in one pass over it. Where the numbers would leave 62 bits (131,000 entities with a year of
events each), ranges are bisected instead, which takes three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from features.offline.range_queries import range_ends

MAX_BITS = 62


@dataclass(frozen=True)
class Timeline:
    """The times of entity c lie at ``starts[c]`` to ``starts[c + 1]`` and ascend there.

    The last entity has none: it stands in for all that are not known. ``merged`` [n] is None where numbers would not fit.
    """

    starts: np.ndarray
    times: np.ndarray
    merged: np.ndarray | None
    first: int
    span: int

    def sort_order(self, codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Rows along the line; ``upto`` is faster for rows in this order, also for times that are all shifted."""
        if self.merged is None:
            return np.arange(codes.size)
        return pl.Series(self._place(codes, asked)).arg_sort().to_numpy()

    def range_ends(self, codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """For each row the first position of its entity (``codes``) whose time is > ``asked``, or the end of the entity."""
        if self.merged is None:
            return range_ends(self.times, self.starts[codes], self.starts[codes + 1], asked)
        found: np.ndarray = np.searchsorted(self.merged, self._place(codes, asked), side="right")
        return found

    def _place(self, codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Times before all others are in the gap before the entity's first."""
        placed: np.ndarray = codes * self.span + np.clip(asked - (self.first - 1), 0, self.span - 1)
        return placed


def merge_timeline(codes: pl.Series, times: pl.Series, entities: int) -> tuple[pl.Series | None, int, int]:
    """The line of events in any order, None where it does not fit; the first time; and the numbers of an entity."""
    first, last = times.min(), times.max()
    if not isinstance(first, int) or not isinstance(last, int):
        return codes.cast(pl.Int64), 0, 1
    span = last - first + 2
    if (entities + 1) * span >= 1 << MAX_BITS:
        return None, first, span
    return codes.cast(pl.Int64) * span + (times - (first - 1)), first, span
