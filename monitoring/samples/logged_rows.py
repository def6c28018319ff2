"""Answered rows as they are looked at: features, what the model said, and labels where they have come. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Rows of one version, all with a score. ``ids`` [n] strings; ``when`` [n] seconds since the epoch, event time.

    ``frame`` has n rows of features; ``scores`` and ``labels`` are as contracts.Task says, labels NaN until they come.
    """

    frame: pa.Table
    ids: np.ndarray
    when: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> Rows:
        """Those whose labels have come."""
        return self.of(np.isfinite(self.labels))

    def of(self, chosen: np.ndarray) -> Rows:
        """Rows by mask or by index."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        taken = self.frame.take(pa.array(index))
        return Rows(taken, self.ids[index], self.when[index], self.scores[index], self.labels[index])

    def between(self, since: float, until: float) -> Rows:
        return self.of((self.when >= since) & (self.when < until))

    def thinned(self, count: int, seed: int = 0) -> Rows:
        """``count`` of them at random, all when there are no more."""
        if len(self) <= count:
            return self
        return self.of(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def with_value(self, column: str, value: str) -> Rows:
        """Those whose ``column``, read as text, is ``value``; none when they lack the column."""
        if column not in self.frame.column_names:
            return self.of(np.empty(0, np.int64))
        text = np.asarray(self.frame.column(column).cast(pa.string()).to_pylist(), object)
        return self.of(text == value)
