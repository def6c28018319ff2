"""Successive halving over growing data, within a wall-clock budget. Pure: it sees losses and seconds only.

Each rung of the race trains on more rows and has an equal share of the time. The best third of a rung, and the best of
each other kind, go on to the next; the last rung takes the others, too, as long as time remains (Jamieson and Talwalkar
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", algorithm 1, with rows as the resource).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

FACTOR = 3
"""Rows grow by this factor from rung to rung, and one of so many candidates goes on."""
MAX_RUNGS = 3
MIN_ROWS = 1_000
"""Fewest rows of a rung, unless there are fewer in all."""


class Heat(NamedTuple):
    """The training of one candidate in one rung."""

    candidate: int
    rung: int
    rows: int
    """Training rows."""
    until: float
    """Seconds since the start of the race at which the training has to end."""


class _Finish(NamedTuple):
    loss: float
    seconds: float


def rung_rows(rows: int) -> tuple[int, ...]:
    """Training rows of each rung; the last one has all."""
    sizes = [rows]
    while len(sizes) < MAX_RUNGS and sizes[0] // FACTOR >= MIN_ROWS:
        sizes.insert(0, sizes[0] // FACTOR)
    return tuple(sizes)


class Race:
    """Decides what is trained next, and how long it may take.

    Args:
        families: The kind of each candidate, in the order in which they are tried.
        rows: Training rows of each rung.
        seconds: Budget of the race.
    """

    def __init__(self, families: Sequence[str], rows: Sequence[int], seconds: float) -> None:
        self._families, self._rows, self._seconds = families, rows, seconds
        self._entered = list(range(len(families)))
        self._waiting = deque(self._entered)
        self._finishes: list[dict[int, _Finish]] = [{} for _ in rows]
        self._rung = 0
        self._running = -1

    def next(self, elapsed: float) -> Heat | None:
        """The next training, ``elapsed`` seconds after the start; None ends the race.

        It does not end before a candidate has a loss: with no time at all, one is trained as shortly as it can be.
        """
        while elapsed < self._seconds or not self._has_loss:
            left = self._seconds * (self._rung + 1) / len(self._rows) - elapsed
            while self._waiting:
                share = self._share(left)
                self._running = self._waiting.popleft()
                if not self._has_loss or self._needs(self._running) <= left:
                    return Heat(self._running, self._rung, self._rows[self._rung], elapsed + share)
            if self._rung + 1 == len(self._rows) or not self._has_loss:
                return None
            self._promote()
        return None

    def finish(self, loss: float, seconds: float) -> None:
        """Take in the result of the training that ``next`` returned last.

        Args:
            loss: Mean loss of the validation rows; infinite if the training failed.
            seconds: What it took.
        """
        self._finishes[self._rung][self._running] = _Finish(loss, seconds)

    @property
    def _has_loss(self) -> bool:
        return any(math.isfinite(each.loss) for rung in self._finishes for each in rung.values())

    def _share(self, left: float) -> float:
        """Seconds for the next training: in the first rung, each kind that is still to be tried keeps an equal part."""
        tried = {self._families[candidate] for candidate in self._finishes[0]}
        untried = {self._families[candidate] for candidate in self._waiting} - tried
        return max(0.0, left) / (1 if self._rung else max(1, len(untried)))

    def _needs(self, candidate: int) -> float:
        """Seconds that a training needs, by what it took on fewer rows, or what its kind took on as many."""
        if self._rung and not self._finishes[self._rung]:
            return 0.0  # the best of a rung goes on in any case
        for rung in reversed(range(self._rung)):
            if earlier := self._finishes[rung].get(candidate):
                return earlier.seconds * self._rows[self._rung] / self._rows[rung]
        alike = [e.seconds for c, e in self._finishes[0].items() if self._families[c] == self._families[candidate]]
        return sum(alike) / len(alike) if alike else 0.0

    def _promote(self) -> None:
        finishes = self._finishes[self._rung]
        ranked = sorted((c for c, each in finishes.items() if math.isfinite(each.loss)), key=lambda c: finishes[c].loss)
        best = ranked[: math.ceil(len(ranked) / FACTOR)]
        families = {self._families[candidate] for candidate in best}
        for candidate in ranked:
            if self._families[candidate] not in families:
                families.add(self._families[candidate])
                best.append(candidate)
        if self._rung + 2 == len(self._rows):
            # Those that follow are trained on all rows only if time remains.
            best += [candidate for candidate in ranked if candidate not in best]
        # A rung that had no time for any of its candidates passes them on.
        self._entered = best or self._entered
        self._waiting = deque(self._entered)
        self._rung += 1
