"""A budget of time for work that must yield to other work: a fraction of the time in which there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

READ_EVERY_S = 0.05
"""For which a reading of the thread's times is used again: it takes some 15 µs."""
_SAVED_S = 1.0
SCHEDSTAT = Path("/proc/thread-self/schedstat")
_NS_PER_S = 1e9


class TimeBudget:
    """Seconds of work that may be spent: a fraction of the time that passes, of at most the last second.

    Work is charged when it is done, so the last piece may overdraw the budget; there is none left until that is repaid.

    Args:
        clock: Seconds, monotonic; those of an IdleClock make a budget that shrinks as other work grows.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._seconds = 0.0

    def has_left(self, rate: float) -> bool:
        """Whether work may begin, at a budget of ``rate`` seconds a second."""
        now = self._clock()
        self._seconds = min(self._seconds + rate * (now - self._at), rate * _SAVED_S)
        self._at = now
        return self._seconds > 0.0

    def spend(self, seconds: float) -> None:
        """Charge work that is done."""
        self._seconds -= seconds


class IdleClock:
    """Seconds in which the calling thread had nothing to do; one thread calls, except for the first reading.

    Linux counts how long a thread ran, and how long it was ready to run and waited for a processor (schedstat): the
    rest is idle. Elsewhere waiting counts as idle too.
    """

    def __init__(self) -> None:
        self._read_at, self._idle = -READ_EVERY_S, 0.0

    def __call__(self) -> float:
        """Return the idle seconds so far; they never decrease."""
        now = time.monotonic()
        if now >= self._read_at + READ_EVERY_S:
            self._read_at, self._idle = now, max(self._idle, now - _busy_s())
        return self._idle


def _busy_s() -> float:
    try:
        ran_ns, waited_ns, _ = (int(field) for field in SCHEDSTAT.read_text().split())
    except OSError:
        return time.thread_time()
    # A kernel without these statistics writes zeros.
    return (ran_ns + waited_ns) / _NS_PER_S if ran_ns else time.thread_time()
