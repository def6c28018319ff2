"""Mergeable summaries of one column, of numbers or of categories. The order of merges does not matter.

number      KLL sketch (Karnin, Lang, Liberty, "Optimal quantile approximation in streams", FOCS 2016)
            and moments (Chan, Golub, LeVeque, "Updating formulae", 1979)
category    counts, exact up to MAX_CATEGORIES distinct values, then a Misra-Gries summary (Agarwal et
            al., "Mergeable summaries", PODS 2012)
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from datasketches import kll_doubles_sketch
from pydantic import Field, PlainSerializer, PlainValidator

SKETCH_K = 400
"""Size of the KLL sketch: rank error of 0.7% (99% confidence), none below k values; about 8 KB when full."""
MAX_CATEGORIES = 1024
MAX_VALUE_CHARS = 128
"""Longer category values are truncated, so that they cannot inflate a profile."""
MAX_MAGNITUDE = 1e100
"""Larger numbers count as infinite: their squares would overflow the moments."""

Count = Annotated[int, Field(ge=0)]


def _read_sketch(stored: bytes | str | kll_doubles_sketch) -> kll_doubles_sketch:
    if isinstance(stored, kll_doubles_sketch):
        return stored
    return kll_doubles_sketch.deserialize(base64.urlsafe_b64decode(stored))


Sketch = Annotated[
    kll_doubles_sketch,
    PlainValidator(_read_sketch),
    PlainSerializer(lambda sketch: base64.urlsafe_b64encode(sketch.serialize()).decode()),
]
"""A KLL sketch, stored in base64."""


@dataclass(slots=True)
class NumberSummary:
    """Summary of a number column. Missing (null or NaN), infinite and mistyped cells are counted separately."""

    nulls: Count = 0
    infinite: Count = 0
    mistyped: Count = 0
    mean: float = 0.0
    m2: float = 0.0
    sketch: Sketch = field(default_factory=lambda: kll_doubles_sketch(SKETCH_K))

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
        if not self.count:
            return np.zeros(len(points))
        return np.array(self.sketch.get_cdf([float(x) for x in points], inclusive=True))[:-1]

    def _add_moments(self, count: int, mean: float, m2: float) -> None:
        if not count:
            return
        before, delta = self.count, mean - self.mean
        self.mean += delta * count / (before + count)
        self.m2 += m2 + delta * delta * before * count / (before + count)


@dataclass(slots=True)
class CategorySummary:
    """Summary of a category column.

    ``counts`` are exact up to MAX_CATEGORIES distinct values. Beyond that, each count is too low by at most
    ``shortfall``, regardless of what was merged and in which order, and values that are not listed occurred at most
    that often.
    """

    count: Count = 0
    nulls: Count = 0
    mistyped: Count = 0
    counts: dict[str, Count] = field(default_factory=dict)

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
