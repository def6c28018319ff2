"""Rows that both variants scored, with their labels or waiting for them. Pure.

Memory is bounded: who has waited longest is given up when there are too many, and everybody after MAX_WAIT_S. That goes
by the order of arrival and by time alone, and is settled before the label is known, so what a row would have shown has
no say in whether it counts, as a sequential test asks. When all places are taken by labelled rows no more are added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

MAX_PAIRS = 200_000
MAX_WAIT_S = 30 * 86_400.0

Label = tuple[int, float]
"""When it was received, in any unit, and what it says."""


class Pair(NamedTuple):
    """What both variants said of a row of ``key``, answered at ``at_us`` while the challenger had ``share``."""

    share: float
    key: int
    champion: float | list[float]
    challenger: float | list[float]
    at_us: int


class Pairs:
    """By row id. The newest label of a row counts, and only it. ``given_up`` counts rows that wait no longer."""

    def __init__(self, most: int = MAX_PAIRS, wait_s: float = MAX_WAIT_S) -> None:
        self._most, self._wait_us = most, wait_s * 1e6
        self._waiting: OrderedDict[str, Pair] = OrderedDict()
        self._labelled: dict[str, tuple[Pair, Label]] = {}
        self._newest_us = 0
        self.given_up = 0

    def add(self, id: str, pair: Pair, label: Label | None = None) -> None:
        """Take in a row, and its label where that came first."""
        if id in self._labelled:
            return
        self._waiting[id] = pair
        self._newest_us = max(self._newest_us, pair.at_us)
        while self._waiting and self._waits_in_vain(next(iter(self._waiting.values()))):
            self._waiting.popitem(last=False)
            self.given_up += 1
        if label is not None:
            self.label(id, label)

    def label(self, id: str, label: Label) -> None:
        """Take in a label; one of a row that is not known is passed over."""
        if id in self._waiting:
            self._labelled[id] = (self._waiting.pop(id), label)
        elif id in self._labelled:
            pair, known = self._labelled[id]
            self._labelled[id] = (pair, label if label[0] >= known[0] else known)

    def labelled(self) -> Iterator[tuple[Pair, float]]:
        """Rows with what their labels say."""
        for pair, (_, says) in self._labelled.values():
            yield pair, says

    def _waits_in_vain(self, oldest: Pair) -> bool:
        full = len(self._waiting) + len(self._labelled) > self._most
        return full or self._newest_us - oldest.at_us > self._wait_us
