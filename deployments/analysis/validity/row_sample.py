"""A sample of a rollout's rows, with their labels, as arrays. Pure.

Memory is bounded: beyond ``most`` rows only keys whose hash is below a limit stay, and the limit is halved as often as
needed, as key_counts.py does. The hash is not that of the split, so the sample is split as all rows are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_ROWS = 50_000
_HASHES = 2.0**64


class RowArrays(NamedTuple):
    """Columns of the sample; rows are in the order of arrival."""

    ids: np.ndarray
    keys: np.ndarray
    """Hash of the routing key, uint64."""
    shares: np.ndarray
    """The challenger's pairwise share at the time."""
    challenger: np.ndarray
    """Whether the split assigned the row to the challenger."""
    at_us: np.ndarray
    champion: np.ndarray
    """The champion's scores, [rows, outputs]; NaN where it failed."""
    challenger_scores: np.ndarray
    """The challenger's; NaN where it was not called, or failed."""
    labels: np.ndarray
    """NaN without a label."""
    received_us: np.ndarray

    def select(self, mask: np.ndarray) -> RowArrays:
        """The rows of a mask."""
        return RowArrays._make(column[mask] for column in self)


class RowSample:
    """Rows by id; the newest label of a row counts.

    Args:
        outputs: Scores of a row.
        most: Rows beyond which the sample is thinned.
    """

    def __init__(self, outputs: int, most: int = MAX_ROWS) -> None:
        self._most, self._limit = most, _HASHES
        self._index: dict[str, int] = {}
        kinds = (object, np.uint64, np.float64, bool, np.int64)
        empty, scores = [np.empty(0, kind) for kind in kinds], np.empty((0, outputs))
        self._rows = RowArrays._make([*empty, scores, scores, np.empty(0), np.empty(0)])
        self._pending: list[RowArrays] = []

    def __contains__(self, id: str) -> bool:
        return id in self._index

    def keeps(self, keys: np.ndarray) -> np.ndarray:
        """Whether rows of these keys are in the sample."""
        return np.asarray(keys < self._limit) if self._limit < _HASHES else np.ones(len(keys), bool)

    def add(self, rows: RowArrays) -> None:
        """Add rows that are in the sample and whose ids are new."""
        start = len(self._index)
        self._index.update({id: start + i for i, id in enumerate(rows.ids)})
        self._pending.append(rows)
        while len(self._index) > self._most:
            self._thin()

    def label(self, id: str) -> float | None:
        """The label of a row of the sample; None without one."""
        value = float(self.arrays().labels[self._index[id]])
        return None if np.isnan(value) else value

    def set_labels(self, ids: list[str], labels: list[float], received_us: list[int]) -> None:
        """Set the labels of rows of the sample."""
        rows, index = self.arrays(), [self._index[id] for id in ids]
        rows.labels[index], rows.received_us[index] = labels, received_us

    def arrays(self) -> RowArrays:
        """All rows."""
        if self._pending:
            parts, self._pending = [self._rows, *self._pending], []
            self._rows = RowArrays._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
        return self._rows

    def _thin(self) -> None:
        rows, self._limit = self.arrays(), self._limit / 2.0
        self._rows = rows.select(self.keeps(rows.keys))
        self._index = {id: i for i, id in enumerate(self._rows.ids)}
