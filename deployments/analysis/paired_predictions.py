"""Rows that both variants scored, with their labels or waiting for them. Pure.

Memory is bounded. Every row expires after MAX_WAIT_S. When there are too many rows, only those whose id has a hash
below a limit go on waiting, and the limit is halved as often as needed: where labels take long, a sample of all rows
waits, instead of the newest rows, none of which would live to see its label. Which rows count depends on ids, on time
and on the number of labels, never on their values, as a sequential test requires. When labeled rows fill all places, no
more rows are added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from deployments.analysis.key_counts import HASHES, key_hash

MAX_PAIRS = 200_000
MAX_WAIT_S = 30 * 86_400.0

Label = tuple[int, float]
"""When it was received, in any unit, and its value."""


class PairedPrediction(NamedTuple):
    """Scores of both variants for a row of ``key``, answered at ``at_us`` while the challenger had ``share``."""

    share: float
    key: int
    champion: float | list[float]
    challenger: float | list[float]
    at_us: int


class PairedPredictions:
    """Paired predictions by row id. Only the newest label of a row counts."""

    def __init__(self, most: int = MAX_PAIRS, wait_s: float = MAX_WAIT_S) -> None:
        self._most, self._wait_us = most, wait_s * 1e6
        self._waiting: OrderedDict[str, PairedPrediction] = OrderedDict()
        self._labeled: dict[str, tuple[PairedPrediction, Label]] = {}
        self._newest_us = 0
        self._limit = HASHES
        self.expired_rows = 0
        """Rows without a label that expired, or had no place."""

    def add(self, id: str, pair: PairedPrediction, label: Label | None = None) -> None:
        """Add a row, and its label where that arrived first."""
        if id in self._labeled:
            return
        self._newest_us = max(self._newest_us, pair.at_us)
        self._waiting[id] = pair
        if self._limit < HASHES and key_hash(id) >= self._limit:
            del self._waiting[id]
            self.expired_rows += 1
        while self._waiting and self._is_expired(next(iter(self._waiting.values()))):
            self._waiting.popitem(last=False)
            self.expired_rows += 1
        while self._waiting and len(self._waiting) + len(self._labeled) > self._most:
            self._thin()
        if label is not None:
            self.add_label(id, label)

    def add_label(self, id: str, label: Label) -> None:
        """Add a label; one of an unknown row is ignored."""
        if id in self._waiting:
            self._labeled[id] = (self._waiting.pop(id), label)
        elif id in self._labeled:
            pair, known = self._labeled[id]
            self._labeled[id] = (pair, label if label[0] >= known[0] else known)

    def labeled_pairs(self) -> Iterator[tuple[PairedPrediction, float]]:
        """Labeled rows, each with the value of its label."""
        for pair, (_, value) in self._labeled.values():
            yield pair, value

    def _is_expired(self, oldest: PairedPrediction) -> bool:
        return self._newest_us - oldest.at_us > self._wait_us

    def _thin(self) -> None:
        """Halve the limit, or leave no row waiting when labeled rows fill all places."""
        self._limit = self._limit // 2 if len(self._labeled) < self._most else 0
        kept = OrderedDict((id, pair) for id, pair in self._waiting.items() if key_hash(id) < self._limit)
        self.expired_rows += len(self._waiting) - len(kept)
        self._waiting = kept
