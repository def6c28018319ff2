"""Gauges that are re-exported periodically: Ray's metrics agent drops those that are idle for 20 s, two intervals."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Gauge

REPUBLISH_S = 5.0
"""Seconds between two exports: half of the agent's interval."""


class PersistentGauge:
    """A gauge of this process whose values stay exported until they are cleared or the process ends.

    It is for values that rarely change. A value that is set every few seconds needs only Ray's own gauge, which
    vanishes with its source.

    Args:
        name: Name of the metric.
        description: Its help text.
        tag_keys: Names of its tags.
    """

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self._gauge = Gauge(name, description, tag_keys)
        self._values: dict[frozenset[tuple[str, str]], float] = {}
        self._lock = threading.Lock()
        with _lock:
            _gauges.add(self)
            _start_thread()

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        """Export a value from now on."""
        with self._lock:
            self._values[frozenset(tags.items())] = value
        self._gauge.set(value, dict(tags))

    def clear(self) -> None:
        """Stop exporting; the values vanish within half a minute."""
        with self._lock:
            self._values.clear()

    def republish(self) -> None:
        """Export all values again."""
        with self._lock:
            values = dict(self._values)
        for tags, value in values.items():
            self._gauge.set(value, dict(tags))


def _republish_all() -> None:
    while True:
        time.sleep(REPUBLISH_S)
        with _lock:
            gauges = list(_gauges)
        for gauge in gauges:
            gauge.republish()


@cache
def _start_thread() -> None:
    """Start the one thread of this process, with its first gauge."""
    threading.Thread(target=_republish_all, name="gauges", daemon=True).start()


_gauges: weakref.WeakSet[PersistentGauge] = weakref.WeakSet()
_lock = threading.Lock()
