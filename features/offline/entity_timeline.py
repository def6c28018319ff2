"""The times of many entities in one array, and fast lookups of an entity's time in it for many rows at once. Pure.

Entity and time are merged into one number, so that entities follow each other on one timeline, and sorted rows are
found in one pass over it. Where these numbers would exceed 62 bits (131,000 entities with a year of events each),
ranges are bisected instead, which takes three times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from features.offline.range_queries import range_ends

MAX_BITS = 62


@dataclass(frozen=True)
class Timeline:
    """Times of entities, ascending within each entity.

    The last entity has no times: it represents all that are unknown.
    """

    starts: np.ndarray
    """Entity c has the positions ``starts[c]`` to ``starts[c + 1]``. int64 [entities + 1]."""
    times: np.ndarray
    """int64 microseconds [events]."""
    merged_keys: np.ndarray | None
    """Entity and time as one number, int64 [events]; None where it would not fit."""
    first: int
    """The earliest time."""
    span: int
    """Numbers that each entity takes in ``merged_keys``."""

    def sort_order(self, codes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return an order of rows in which ``range_ends`` is faster, even if all times are shifted."""
        if self.merged_keys is None:
            return np.arange(codes.size)
        return pl.Series(self._merge(codes, times)).arg_sort().to_numpy()

    def range_ends(self, codes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return for each row the first position of entity ``codes`` with a later time, or the end of the entity."""
        if self.merged_keys is None:
            return range_ends(self.times, self.starts[codes], self.starts[codes + 1], times)
        return np.asarray(np.searchsorted(self.merged_keys, self._merge(codes, times), side="right"))

    def _merge(self, codes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Times before all others fall into the gap before the entity's first."""
        return np.asarray(codes * self.span + np.clip(times - (self.first - 1), 0, self.span - 1))


def merge_timeline(codes: pl.Series, times: pl.Series, entities: int) -> tuple[pl.Series | None, int, int]:
    """Merge entity codes and times, in any order, into one number each.

    Returns:
        The numbers, or None where they do not fit; the earliest time; and the numbers that each entity takes.
    """
    first, last = times.min(), times.max()
    if not isinstance(first, int) or not isinstance(last, int):
        return codes.cast(pl.Int64), 0, 1
    span = last - first + 2
    if (entities + 1) * span >= 1 << MAX_BITS:
        return None, first, span
    return codes.cast(pl.Int64) * span + (times - (first - 1)), first, span
