"""Mergeable summaries of one column, of numbers or of categories. The order of merges does not matter.

number      KLL sketch (Karnin, Lang, Liberty, "Optimal quantile approximation in streams", FOCS 2016)
            and moments (Chan, Golub, LeVeque, "Updating formulae", 1979)
category    counts, exact up to MAX_CATEGORIES distinct values, then a Misra-Gries summary (Agarwal et
            al., "Mergeable summaries", PODS 2012)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Self

import numpy as np
from datasketches import kll_doubles_sketch
from pydantic import ConfigDict, Field

from cluster.values import Frozen

SKETCH_K = 400
"""Size of the KLL sketch: rank error of 0.7 % (99 % confidence), none below k values; about 8 KB when full."""
MAX_CATEGORIES = 1024
MAX_VALUE_CHARS = 128
"""Longer category values are truncated, so that they cannot inflate a profile."""
MAX_MAGNITUDE = 1e100
"""Larger numbers count as infinite: their squares would overflow the moments."""

Count = Annotated[int, Field(ge=0)]


class NumberRecord(Frozen):
    """Stored form of a NumberSummary."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    nulls: Count
    infinite: Count
    mistyped: Count
    mean: float
    m2: float
    sketch: bytes


class CategoryRecord(Frozen):
    """Stored form of a CategorySummary."""

    count: Count
    nulls: Count
    mistyped: Count
    counts: dict[str, Count]


@dataclass(slots=True)
class NumberSummary:
    """Summary of a number column. Missing (null or NaN), infinite and mistyped cells are counted separately."""

    sketch: kll_doubles_sketch = field(default_factory=lambda: kll_doubles_sketch(SKETCH_K))
    nulls: int = 0
    infinite: int = 0
    mistyped: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @property
    def count(self) -> int:
        """Number of finite values."""
        return int(self.sketch.n)

    @property
    def total(self) -> int:
        """Number of all cells."""
        return self.count + self.nulls + self.infinite + self.mistyped

    @property
    def std(self) -> float:
        """Population standard deviation; NaN without values."""
        return math.sqrt(self.m2 / self.count) if self.count else math.nan

    @property
    def min(self) -> float:
        """Smallest finite value; undefined without values."""
        return float(self.sketch.get_min_value())

    @property
    def max(self) -> float:
        """Largest finite value; undefined without values."""
        return float(self.sketch.get_max_value())

    def add(self, values: np.ndarray) -> None:
        """Add float64 values; NaN means missing."""
        missing = int(np.isnan(values).sum())
        finite = values[np.abs(values) <= MAX_MAGNITUDE]
        self.nulls += missing
        self.infinite += values.size - missing - finite.size
        if finite.size:
            mean = float(finite.mean())
            self._add_moments(finite.size, mean, float(np.square(finite - mean).sum()))
            self.sketch.update(np.ascontiguousarray(finite))

    def merge(self, other: NumberSummary) -> None:
        """Add another summary."""
        self._add_moments(other.count, other.mean, other.m2)
        self.sketch.merge(other.sketch)
        self.nulls += other.nulls
        self.infinite += other.infinite
        self.mistyped += other.mistyped

    def quantiles(self, ranks: Iterable[float]) -> np.ndarray:
        """Return the values at ranks in [0, 1], shape [ranks]; empty without values."""
        return np.array(self.sketch.get_quantiles(list(ranks)), np.float64)

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """Return the share of values <= each of strictly increasing points, shape [points]; zeros without values."""
        return self._cumulative(points)[:-1]

    def pmf(self, edges: np.ndarray) -> np.ndarray:
        """Return the shares of (-inf, e0], (e0, e1], ..., (ek, inf), shape [edges + 1]; zeros without values."""
        return np.diff(self._cumulative(edges), prepend=0.0)

    def _cumulative(self, points: np.ndarray) -> np.ndarray:
        if not self.count:
            return np.zeros(len(points) + 1)
        return np.array(self.sketch.get_cdf([float(x) for x in points], inclusive=True))

    def _add_moments(self, count: int, mean: float, m2: float) -> None:
        if not count:
            return
        before, delta = self.count, mean - self.mean
        self.mean += delta * count / (before + count)
        self.m2 += m2 + delta * delta * before * count / (before + count)

    def to_record(self) -> NumberRecord:
        """Convert to the stored form."""
        return NumberRecord(
            nulls=self.nulls,
            infinite=self.infinite,
            mistyped=self.mistyped,
            mean=self.mean,
            m2=self.m2,
            sketch=self.sketch.serialize(),
        )

    @classmethod
    def from_record(cls, record: NumberRecord) -> Self:
        """Convert from the stored form."""
        sketch = kll_doubles_sketch.deserialize(record.sketch)
        return cls(sketch, record.nulls, record.infinite, record.mistyped, record.mean, record.m2)


@dataclass(slots=True)
class CategorySummary:
    """Summary of a category column.

    ``counts`` are exact up to MAX_CATEGORIES distinct values. Beyond that, each count is too low by at most
    ``shortfall``, whatever was merged in which order, and values that are not listed occurred at most that often.
    """

    counts: dict[str, int] = field(default_factory=dict)
    count: int = 0
    nulls: int = 0
    mistyped: int = 0

    @property
    def total(self) -> int:
        """Number of all cells."""
        return self.count + self.nulls + self.mistyped

    @property
    def other(self) -> int:
        """Number of values that ``counts`` does not account for."""
        return self.count - sum(self.counts.values())

    @property
    def shortfall(self) -> int:
        """Bound of the error of counts (Agarwal et al. 2012, section 3)."""
        # Each unit that is removed from a count removes one from MAX_CATEGORIES others.
        return self.other // (MAX_CATEGORIES + 1)

    def add(self, counts: dict[str, int]) -> None:
        """Add values by their counts."""
        for value, count in counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
            self.count += count
        self._shrink()

    def merge(self, other: CategorySummary) -> None:
        """Add another summary."""
        unlisted = other.other
        self.add(other.counts)
        self.count += unlisted
        self.nulls += other.nulls
        self.mistyped += other.mistyped

    def _shrink(self) -> None:
        if len(self.counts) <= MAX_CATEGORIES:
            return
        cut = sorted(self.counts.values(), reverse=True)[MAX_CATEGORIES]
        self.counts = {value: count - cut for value, count in self.counts.items() if count > cut}

    def to_record(self) -> CategoryRecord:
        """Convert to the stored form."""
        return CategoryRecord(count=self.count, nulls=self.nulls, mistyped=self.mistyped, counts=self.counts)

    @classmethod
    def from_record(cls, record: CategoryRecord) -> Self:
        """Convert from the stored form.

        Raises:
            ValueError: The counts contradict each other.
        """
        if sum(record.counts.values()) > record.count:
            raise ValueError("the listed counts exceed the total")
        return cls(dict(record.counts), record.count, record.nulls, record.mistyped)
