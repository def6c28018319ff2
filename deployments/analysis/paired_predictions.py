"""Rows that both variants scored, with their labels or waiting for them. Pure.

Memory is bounded: every row expires after a time, and when there are too many, the row that has waited longest expires
if its label is overdue. While none is, rows are thinned, those that wait and those that come later, to those whose ids
have the smaller hashes: otherwise, with labels that take months, no row would live until its label comes. All this
depends on ids, the order of arrival and time alone, never on the label, so it does not bias which rows count, and a
labeled row stays, as a sequential test requires. When labeled rows fill all places, no more rows are added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from deployments.analysis.key_counts import HASHES, key_hash

MAX_PAIRS = 200_000

Label = tuple[int, float]
"""When it was received, in any unit, and its value."""


class LabelWaits(NamedTuple):
    """How long rows wait for their labels, seconds."""

    wait_s: float = 30 * 86_400.0
    """Every row that has waited longer expires."""
    delay_s: float = 0.0
    """A label that takes longer is overdue; 0: every one is, because it is not known how long labels take."""


UNKNOWN_DELAY = LabelWaits()


class PairedPrediction(NamedTuple):
    """Scores of both variants for a row of ``key``, answered at ``at_us`` while the challenger had ``share``."""

    share: float
    key: int
    champion: float | list[float]
    challenger: float | list[float]
    at_us: int
    groups: tuple[str, ...] = ()
    """Of the columns whose groups are compared, in their order."""


class PairedPredictions:
    """Paired predictions by row id. Only the newest label of a row counts."""

    def __init__(self, waits: LabelWaits = UNKNOWN_DELAY, most: int = MAX_PAIRS) -> None:
        self._waits, self._most, self._limit = waits, most, HASHES
        self._waiting: OrderedDict[str, PairedPrediction] = OrderedDict()
        self._labeled: dict[str, tuple[PairedPrediction, Label]] = {}
        self._newest_us = 0
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
        while self._waiting and (self._is_full or self._oldest_s > self._waits.wait_s):
            if self._oldest_s > self._waits.delay_s or not self._waits.delay_s:
                self._waiting.popitem(last=False)
                self.expired_rows += 1
            else:
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

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) + len(self._labeled) > self._most

    @property
    def _oldest_s(self) -> float:
        """Age of the row that has waited longest, seconds."""
        return (self._newest_us - next(iter(self._waiting.values())).at_us) / 1e6

    def _thin(self) -> None:
        """Halve the limit, or leave no row waiting when labeled rows fill all places."""
        self._limit = self._limit // 2 if len(self._labeled) < self._most else 0
        kept = OrderedDict((id, pair) for id, pair in self._waiting.items() if key_hash(id) < self._limit)
        self.expired_rows += len(self._waiting) - len(kept)
        self._waiting = kept
