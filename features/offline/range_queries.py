"""Queries over many ranges of one array at once: where they end, their extremes, their distinct values. Pure.

A range is [low, high), positions in the array; ``low`` and ``high`` are int64 [queries]. Everything is exact and costs
O((n + queries) log n), regardless of how long the ranges are and how much they overlap.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

_CACHED_RANGES = 1 << 14
"""Ranges that are bisected together: as many as fit into the processor's cache."""


def range_ends(times: np.ndarray, low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the first position of each range whose time exceeds the range's limit, or its end; int64 [queries].

    Args:
        times: Times, int64 [n]; they ascend within each range.
        low: Starts of the ranges, [queries].
        high: Ends of the ranges, exclusive, [queries].
        limits: Limit of each range, [queries].
    """
    ends = low.copy()
    for start in range(0, low.size, _CACHED_RANGES):
        some = slice(start, start + _CACHED_RANGES)
        ends[some] = _bisect(times, low[some], high[some], limits[some])
    return ends


def _bisect(times: np.ndarray, low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Step by falling powers of two: a step is taken when it stays in the range and skips no later time."""
    for k in reversed(range(int((high - low).max(initial=0)).bit_length())):
        ahead = low + (1 << k)
        # A step too far may go beyond the end of the array.
        low = np.where((ahead <= high) & (times.take(ahead - 1, mode="clip") <= limits), ahead, low)
    return low


def prefix_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of the first 0, 1, ... n values, int64 [n + 1].

    Sums beyond 64 bits wrap around; their differences are still right.
    """
    totals = np.zeros(values.size + 1, np.int64)
    np.cumsum(values, out=totals[1:])
    return totals


def range_extremes(values: np.ndarray, low: np.ndarray, high: np.ndarray, of: Literal["min", "max"]) -> np.ndarray:
    """Return the smallest or largest value of each range, float64 [queries]; NaN means no value, in and out.

    A range is covered by two overlapping ones whose length is a power of two (Bender, Farach-Colton, "The LCA problem
    revisited", 2000). The lengths are processed one after another, so that memory stays linear.

    Args:
        values: Values, float64 [n].
        low: Starts of the ranges, [queries].
        high: Ends of the ranges, exclusive, [queries].
        of: Which extreme.
    """
    best = np.fmin if of == "min" else np.fmax
    extremes = np.full(low.size, np.nan)
    level = np.frexp((high - low).astype(np.float64))[1] - 1
    for k in range(int(level.max(initial=-1)) + 1):
        of_level = np.flatnonzero(level == k)
        extremes[of_level] = best(values[low[of_level]], values[high[of_level] - (1 << k)])
        values = best(values[: -(1 << k)], values[1 << k :])
    return extremes


def count_distinct(previous: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Count the distinct values of each range.

    A value counts at its first position in the range, which is where ``previous`` < low. These are counted bit by bit
    as in a wavelet matrix (Claude, Navarro, Ordóñez, 2015), for all ranges at once and with one level in memory.

    Args:
        previous: Position at which the same value stood before, -1 if nowhere; n where there is no value. int64 [n].
        low: Starts of the ranges.
        high: Ends of the ranges.
    """
    values, limit = previous + 1, low + 1
    counts = np.zeros(low.size, np.int64)
    for bit in reversed(range(int(previous.size + 1).bit_length())):
        zero = (values >> bit) & 1 == 0
        zeros = prefix_sums(zero)
        low_zeros, high_zeros = zeros[low], zeros[high]
        bit_is_one = (limit >> bit) & 1 == 1
        counts += np.where(bit_is_one, high_zeros - low_zeros, 0)
        low = np.where(bit_is_one, zeros[-1] + low - low_zeros, low_zeros)
        high = np.where(bit_is_one, zeros[-1] + high - high_zeros, high_zeros)
        values = np.concatenate([values[zero], values[~zero]])
    return counts
