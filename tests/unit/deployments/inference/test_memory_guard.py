"""Growth of a process is reported; beyond the limit the process is terminated, once."""

import queue
import threading
from collections.abc import Iterable

import numpy as np

from deployments.inference.memory_guard import MemoryGuard, private_memory_mib

DEADLINE_S = 30.0


class Process:
    """Memory in use by script, the last value forever; records reports and terminations."""

    def __init__(self, used: Iterable[float]) -> None:
        self._used, self._now = iter(used), 0.0
        self.reports: list[float] = []
        self.terminations: queue.Queue[float] = queue.Queue()
        self.read = threading.Semaphore(0)

    def used(self) -> float:
        self._now = next(self._used, self._now)
        self.read.release()
        return self._now


def guard(process: Process, most: float) -> MemoryGuard:
    return MemoryGuard(most, process.reports.append, process.terminations.put, process.used)


def test_guard_with_growth_beyond_the_limit_reports_and_terminates_once() -> None:
    process = Process([500.0, 510.0, 530.0, 520.0, 531.0, 560.0, 601.0, 900.0])
    watcher = guard(process, 100.0)
    assert process.terminations.get(timeout=DEADLINE_S) == 101.0
    watcher.close()
    assert process.reports == [30.0, 60.0]
    assert process.terminations.empty()


def test_guard_with_growth_within_the_limit_does_not_terminate() -> None:
    process = Process([500.0, 600.0])
    watcher = guard(process, 100.0)
    for _ in range(4):
        assert process.read.acquire(timeout=DEADLINE_S)
    watcher.close()
    assert process.terminations.empty()


def test_private_memory_mib_includes_allocations() -> None:
    before = private_memory_mib()
    block = np.ones(64 * 1024**2, np.uint8)
    assert 60.0 < private_memory_mib() - before < 80.0
    assert block[-1] == 1
