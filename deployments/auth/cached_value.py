"""A value that another system owns, refreshed by a background thread, so that no request waits for its owner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")


class CachedValue(Generic[T]):
    """The last value that ``read`` returned. When ``read`` fails, the value stays; an outage is logged once.

    The constructor reads once and may block for as long as ``read`` does. ``value`` is None until a read succeeds.

    Args:
        name: Name of the value in logs.
        read: Reads the value from its owner; any exception counts as a failed read.
        interval_s: Seconds between reads.
        min_interval_s: Minimum seconds between reads, regardless of the number of refresh requests: a flood of requests
            must not become a flood of reads.
    """

    def __init__(self, name: str, read: Callable[[], T], interval_s: float, min_interval_s: float) -> None:
        self.value: T | None = None
        self._name, self._read, self._interval_s, self._min_interval_s = name, read, interval_s, min_interval_s
        self._failing = False
        self._refresh_requested, self._closed = threading.Event(), threading.Event()
        self._refresh()
        self._thread = threading.Thread(target=self._run, name=f"refresh {name}", daemon=True)
        self._thread.start()

    def request_refresh(self) -> None:
        """Request a read before the interval ends; returns immediately."""
        self._refresh_requested.set()

    def close(self) -> None:
        """End the thread, after a read in progress."""
        self._closed.set()
        self._refresh_requested.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._min_interval_s):
            self._refresh_requested.wait(0.0 if self._failing else max(0.0, self._interval_s - self._min_interval_s))
            self._refresh_requested.clear()
            if not self._closed.is_set():
                self._refresh()

    def _refresh(self) -> None:
        try:
            self.value = self._read()
        except Exception as error:
            if not self._failing:
                _log.error("cannot read %s; using the last known values: %s", self._name, error)
            self._failing = True
            return
        if self._failing:
            _log.warning("reading %s works again", self._name)
        self._failing = False
