"""A value of somebody else's, read again and again in a thread, so that no request waits for its owner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")


class CachedValue(Generic[T]):
    """What ``read`` last returned. When it raises, the value stays as it was, and the log says so once an outage.

    The constructor reads once and may block for as long as ``read`` does; ``value`` is None until a reading succeeds.
    After that a thread reads every ``period_s`` seconds; sooner when the last reading failed or somebody asks with
    ``want``, but never within ``gap_s`` of the reading before: whoever can make requests cannot make more readings.
    """

    def __init__(self, what: str, read: Callable[[], T], period_s: float, gap_s: float) -> None:
        self.value: T | None = None
        self._what, self._read, self._period_s, self._gap_s = what, read, period_s, gap_s
        self._failing = False
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._refresh()
        self._thread = threading.Thread(target=self._run, name=f"refresh {what}", daemon=True)
        self._thread.start()

    def request_refresh(self) -> None:
        """Ask for a reading before its time."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread; a reading that is under way is waited for."""
        self._closed.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._gap_s):
            self._wanted.wait(0.0 if self._failing else max(0.0, self._period_s - self._gap_s))
            self._wanted.clear()
            if not self._closed.is_set():
                self._refresh()

    def _refresh(self) -> None:
        try:
            self.value = self._read()
        except Exception as error:
            if not self._failing:
                _log.error("%s cannot be read, the last known stay: %s", self._what, error)
            self._failing = True
            return
        if self._failing:
            _log.warning("%s can be read again", self._what)
        self._failing = False
