"""Gauges that stay: Ray's metrics agent forgets a gauge that it is not told again within two of its intervals, some 20 s."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

from ray.util.metrics import Gauge

REPUBLISH_S = 5.0
"""Half of Ray's interval."""


class PersistentGauge:
    """A gauge of this process whose values are told again and again, until they are forgotten or the process ends.

    For figures that are told seldom. One that is told every few seconds is better off with Ray's own: it ends with who tells it.
    """

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self._gauge = Gauge(name, description, tag_keys)
        self._values: dict[frozenset[tuple[str, str]], float] = {}
        self._lock = threading.Lock()
        _republisher.register(self)

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        """Tell a value, as Ray's gauge does."""
        with self._lock:
            self._values[frozenset(tags.items())] = value
        self._gauge.set(value, dict(tags))

    def clear(self) -> None:
        """Tell no value any more. Those that were told vanish within half a minute."""
        with self._lock:
            self._values.clear()

    def republish(self) -> None:
        """Tell all values again."""
        with self._lock:
            values = dict(self._values)
        for tags, value in values.items():
            self._gauge.set(value, dict(tags))


class _Republisher:
    """One thread a process, from its first gauge on."""

    def __init__(self) -> None:
        self._gauges: weakref.WeakSet[PersistentGauge] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def register(self, gauge: PersistentGauge) -> None:
        with self._lock:
            self._gauges.add(gauge)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        never = threading.Event()
        while not never.wait(REPUBLISH_S):
            with self._lock:
                gauges = list(self._gauges)
            for gauge in gauges:
                gauge.republish()


_republisher = _Republisher()
