"""Rows of the prediction log as they are analyzed: features, scores, and labels where they have arrived. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class LoggedRows:
    """Scored rows of one version.

    Attributes:
        frame: Features, n rows.
        ids: Request row ids, [n] strings.
        times: Event times, [n], seconds since the epoch.
        scores: Scores as cluster.values.Task says, [n] or [n, classes].
        labels: Labels as cluster.values.Task says, [n]; NaN until they arrive.
    """

    frame: pa.Table
    ids: np.ndarray
    times: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labeled_rows(self) -> LoggedRows:
        """Rows whose labels have arrived."""
        return self.select(np.isfinite(self.labels))

    def select(self, where: np.ndarray) -> LoggedRows:
        """Rows by mask or by index."""
        index = np.flatnonzero(where) if where.dtype == bool else where
        frame = self.frame.take(pa.array(index))
        return LoggedRows(frame, self.ids[index], self.times[index], self.scores[index], self.labels[index])

    def between(self, since: float, until: float) -> LoggedRows:
        """Rows with an event time in [since, until)."""
        return self.select((self.times >= since) & (self.times < until))

    def sample(self, count: int, seed: int = 0) -> LoggedRows:
        """``count`` random rows; all when there are no more."""
        if len(self) <= count:
            return self
        return self.select(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def with_value(self, column: str, value: str) -> LoggedRows:
        """Rows whose ``column``, read as text, is ``value``; none when they lack the column."""
        if column not in self.frame.column_names:
            return self.select(np.empty(0, np.int64))
        text = np.asarray(self.frame.column(column).cast(pa.string()).to_pylist(), object)
        return self.select(text == value)
