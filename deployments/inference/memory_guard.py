"""Bounds how far a process grows after its model is loaded, from a thread, because a call that hangs can also grow.

Memory that native code leaks returns only when the process ends. So a process that grows too far reports it and ends,
as a container does at its limit. Ray's own monitor waits until the node has 5% of its memory left, and then kills the
newest workers, regardless of which one grew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

CHECK_INTERVAL_S = 0.1
REPORT_STEP_MIB = 16.0
"""Growth is reported each time it rises by this much."""
_MIB = 1024**2


class MemoryGuard:
    """Watches the growth of this process, counted from the guard's creation.

    Args:
        max_growth_mib: The limit.
        report: Called with the growth in MiB as it rises.
        terminate: Called once with the growth in MiB when it exceeds the limit.
        measure: Returns the memory in use, in MiB; ``private_memory_mib`` by default.
    """

    def __init__(
        self,
        max_growth_mib: float,
        report: Callable[[float], object],
        terminate: Callable[[float], None],
        measure: Callable[[], float] | None = None,
    ) -> None:
        self._max_growth_mib, self._report, self._terminate = max_growth_mib, report, terminate
        self._measure = measure or private_memory_mib
        self._baseline = self._measure()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        reported = 0.0
        while not self._closing.wait(CHECK_INTERVAL_S):
            growth = self._measure() - self._baseline
            if growth > self._max_growth_mib:
                self._terminate(growth)
                return
            if growth >= reported + REPORT_STEP_MIB:
                self._report(growth)
                reported = growth


def private_memory_mib() -> float:
    """Memory of this process alone, in MiB: without mapped files and the object store."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - memory.shared) / _MIB
