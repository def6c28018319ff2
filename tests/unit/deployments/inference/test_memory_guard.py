"""A process that grows is watched whatever it does; beyond its limit it is ended, once."""

import queue
import threading
from collections.abc import Iterable

import numpy as np

from deployments.inference.memory_guard import MemoryGuard, private_memory_mib

DEADLINE_S = 30.0


class Process:
    """Memory in use by script, the last value for ever; what was told of its growth, and what it was ended for."""

    def __init__(self, used: Iterable[float]) -> None:
        self._used, self._now = iter(used), 0.0
        self.told: list[float] = []
        self.ended: queue.Queue[float] = queue.Queue()
        self.read = threading.Semaphore(0)

    def used(self) -> float:
        self._now = next(self._used, self._now)
        self.read.release()
        return self._now


def watched(process: Process, most: float) -> MemoryGuard:
    return MemoryGuard(most, process.told.append, process.ended.put, process.used)


def test_growth_is_told_as_it_rises_and_ends_the_process_once() -> None:
    process = Process([500.0, 510.0, 530.0, 520.0, 531.0, 560.0, 601.0, 900.0])
    watch = watched(process, 100.0)
    assert process.ended.get(timeout=DEADLINE_S) == 101.0
    watch.close()
    assert process.told == [30.0, 60.0]
    assert process.ended.empty()


def test_a_process_that_stays_within_its_limit_lives() -> None:
    process = Process([500.0, 600.0])
    watch = watched(process, 100.0)
    for _ in range(4):
        assert process.read.acquire(timeout=DEADLINE_S)
    watch.close()
    assert process.ended.empty()


def test_what_a_process_holds_shows() -> None:
    before = private_memory_mib()
    held = np.ones(64 * 1024**2, np.uint8)
    assert 60.0 < private_memory_mib() - before < 80.0
    assert held[-1] == 1
