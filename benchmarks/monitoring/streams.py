"""Seeded streams of windows with 40 numbers and 10 strings, and changes to them.

A frame travels to peers as an ``.npz`` file, which every environment reads: ``numbers`` float64 [rows, 40], ``codes``
int16 [rows, 10], where code c of a column stands for the string ``v<c>`` and -1 for a missing value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from features.definitions import Column

NUMBERS, STRINGS = 40, 10
LEVELS = (2, 3, 5, 8, 12, 20, 30, 50, 100, 200)


def columns(numbers: int, strings: int) -> tuple[Column, ...]:
    return (
        *(Column(name=f"n{i}", kind="number") for i in range(numbers)),
        *(Column(name=f"s{i}", kind="category") for i in range(strings)),
    )


COLUMNS = columns(NUMBERS, STRINGS)
_NAMES = np.array([f"v{i}" for i in range(max(LEVELS) + 1)])
_SHARED = 0.3
"""Share of variance that neighboring numbers have in common."""

_MIXED_FROM = 0.5
"""Rows with a latent factor above this (31 % of all) form a cluster: their first four numbers are larger together."""

Kind = Literal["none", "mean", "variance", "missing", "category", "mix"]


@dataclass(frozen=True)
class Change:
    """What happens to a ``share`` of the rows, in the first number or, for ``category``, the sixth string.

    mean: it moves by ``size`` standard deviations. variance: its deviations grow by the factor 1 + ``size``. missing:
    it is missing. category: it takes a value never seen before. mix: the row is of a kind that was rarer before, and
    has the first four numbers of that kind, each of them within its previous range.
    """

    kind: Kind = "none"
    share: float = 1.0
    size: float = 0.0

    def __str__(self) -> str:
        size = {"mean": f" by {self.size:g} sd", "variance": f" (sd times {1 + self.size:g})"}.get(self.kind, "")
        return f"{self.kind}{size} on {self.share:.0%} of rows"


@dataclass(frozen=True)
class Frame:
    numbers: np.ndarray
    codes: np.ndarray

    def save(self, path: Path) -> Path:
        np.savez(path, numbers=self.numbers, codes=self.codes)
        return path

    def table(self) -> pa.Table:
        numbers = {f"n{i}": self.numbers[:, i] for i in range(self.numbers.shape[1])}
        names = pa.array(_NAMES)
        strings = {}
        for i in range(self.codes.shape[1]):
            codes = pa.array(self.codes[:, i].astype(np.int32), mask=self.codes[:, i] < 0)
            strings[f"s{i}"] = names.take(codes)
        return pa.table(numbers | strings)


def frame(seed: int, rows: int, change: Change = Change()) -> Frame:
    """A window of ``rows`` rows; with the same seed the same rows, changed or not."""
    rng = np.random.default_rng(seed)
    noise, shared = rng.normal(size=(rows, NUMBERS)), rng.normal(size=(rows, NUMBERS // 4))
    numbers = np.sqrt(1 - _SHARED) * noise + np.sqrt(_SHARED) * np.repeat(shared, 4, axis=1)
    codes = np.stack([_zipf(rng, rows, levels) for levels in LEVELS], axis=1)
    _apply(change, numbers, codes, shared[:, 0], rng.random(rows) < change.share)
    return Frame(_shaped(numbers), codes)


def joined(frames: Sequence[Frame]) -> Frame:
    """Rows of several frames, one after the other."""
    return Frame(np.vstack([one.numbers for one in frames]), np.vstack([one.codes for one in frames]))


def wide(seed: int, rows: int, times: int) -> Frame:
    """``times`` such windows joined by columns: 40 numbers and 10 strings each, columns numbered through."""
    parts = [frame(1_000 * seed + i, rows) for i in range(times)]
    return Frame(np.hstack([p.numbers for p in parts]), np.hstack([p.codes for p in parts]))


def _zipf(rng: np.random.Generator, rows: int, levels: int) -> np.ndarray:
    odds = 1.0 / np.arange(1, levels + 1)
    return rng.choice(levels, rows, p=odds / odds.sum()).astype(np.int16)


def _apply(change: Change, numbers: np.ndarray, codes: np.ndarray, factor: np.ndarray, hit: np.ndarray) -> None:
    if change.kind == "mean":
        numbers[hit, 0] += change.size
    elif change.kind == "variance":
        numbers[hit, 0] *= 1.0 + change.size
    elif change.kind == "missing":
        numbers[hit, 0] = np.nan
    elif change.kind == "category":
        codes[hit, 5] = LEVELS[5]
    elif change.kind == "mix":
        kind = factor[factor > _MIXED_FROM]
        assert kind.size, "no row of that kind among so few"
        numbers[hit, :4] += np.sqrt(_SHARED) * (np.resize(kind, hit.sum()) - factor[hit])[:, None]


def _shaped(numbers: np.ndarray) -> np.ndarray:
    """Of each four numbers one stays normal, one is skewed, one is a count, and one is 0 in most rows."""
    shaped = numbers.copy()
    shaped[:, 1::4] = np.exp(numbers[:, 1::4])
    shaped[:, 2::4] = np.floor(3.0 * np.abs(numbers[:, 2::4]))
    shaped[:, 3::4] = np.maximum(numbers[:, 3::4] - 0.5, 0.0)
    return shaped
