"""Questions about many ranges of one array at once: where they end, their extremes, how many different values. Pure.

A range is [low, high), positions into the array; ``low`` and ``high`` are int64, shape [asked]. Everything is exact and
costs O((n + asked) log n), however long the ranges are and however much they overlap.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

_CACHED = 1 << 14
"""Ranges that are bisected together: as many as stay in the processor's cache."""


def range_ends(times: np.ndarray, low: np.ndarray, high: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The first position of each range whose time is > ``asked``, or its end; times ascend within a range."""
    found = low.copy()
    for start in range(0, low.size, _CACHED):
        some = slice(start, start + _CACHED)
        found[some] = _bisected(times, low[some], high[some], asked[some])
    return found


def _bisected(times: np.ndarray, low: np.ndarray, high: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """By steps of falling powers of two: a step is taken where it stays in the range and what it passes is not later."""
    for k in reversed(range(int((high - low).max(initial=0)).bit_length())):
        ahead = low + (1 << k)
        # Of a step too far, the time may lie behind the end of all.
        low = np.where((ahead <= high) & (times.take(ahead - 1, mode="clip") <= asked), ahead, low)
    return low


def prefix_sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... n values, int64; what leaves 64 bits wraps, and differences are right all the same."""
    totals = np.zeros(values.size + 1, np.int64)
    np.cumsum(values, out=totals[1:])
    return totals


def range_extremes(values: np.ndarray, low: np.ndarray, high: np.ndarray, of: Literal["min", "max"]) -> np.ndarray:
    """Smallest or largest of each range, NaN standing for no value; NaN where there is none.

    A range is covered by two that overlap, of a power of two long (Bender, Farach-Colton, "The LCA problem revisited",
    2000); the lengths are gone through one after the other, so that memory stays linear.
    """
    best = np.fmin if of == "min" else np.fmax
    found = np.full(low.size, np.nan)
    lengths = high - low
    level = np.frexp(lengths.astype(np.float64))[1] - 1
    for k in range(int(level.max(initial=-1)) + 1):
        asked = np.flatnonzero(level == k)
        found[asked] = best(values[low[asked]], values[high[asked] - (1 << k)])
        values = best(values[: -(1 << k)], values[1 << k :])
    return found


def count_distinct(previous: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Number of different values in each range.

    ``previous`` [n] is where the same value stood before, -1 if nowhere; n where there is no value. A value is counted
    where it stands in the range for the first time, which is where ``previous`` < low. That count is taken bit by bit
    as in a wavelet matrix (Claude, Navarro, Ordóñez, 2015), for all ranges at once and one level in memory.
    """
    values, limit = previous + 1, low + 1
    found = np.zeros(low.size, np.int64)
    for bit in reversed(range(int(previous.size + 1).bit_length())):
        zero = (values >> bit) & 1 == 0
        zeros = prefix_sums(zero)
        low_zeros, high_zeros = zeros[low], zeros[high]
        one = (limit >> bit) & 1 == 1
        found += np.where(one, high_zeros - low_zeros, 0)
        low = np.where(one, zeros[-1] + low - low_zeros, low_zeros)
        high = np.where(one, zeros[-1] + high - high_zeros, high_zeros)
        values = np.concatenate([values[zero], values[~zero]])
    return found
