"""How far a process has grown since it was loaded, watched from a thread of its own: a call that hangs grows as well.

What native code has leaked no process gives back but by its end. So one that has grown too far is not mended: it says so
and ends, as a container does at its limit. Ray's own monitor waits until the node has 5 % of its memory left, and then
ends the workers that came last, whoever it was that grew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

CHECK_INTERVAL_S = 0.1
REPORT_STEP_MIB = 16.0
"""What a process has grown by is told anew at each rise by this much."""
_MIB = 1024**2


class MemoryGuard:
    """Calls ``tell`` with the growth in MiB as it rises, and ``end`` once when it exceeds ``most_mib``."""

    def __init__(
        self,
        most_mib: float,
        tell: Callable[[float], object],
        end: Callable[[float], None],
        used: Callable[[], float] | None = None,
    ) -> None:
        """What ``used`` gives now (``used_mib``) counts as no growth."""
        self._most, self._tell, self._end = most_mib, tell, end
        self._used = used or private_memory_mib
        self._loaded = self._used()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="growth", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no longer."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        told = 0.0
        while not self._closing.wait(CHECK_INTERVAL_S):
            grown = self._used() - self._loaded
            if grown > self._most:
                self._end(grown)
                return
            if grown >= told + REPORT_STEP_MIB:
                self._tell(grown)
                told = grown


def private_memory_mib() -> float:
    """Memory of this process that is nobody else's: without mapped files and the object store."""
    held = psutil.Process().memory_info()
    return float(held.rss - held.shared) / _MIB
