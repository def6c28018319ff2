"""Gauges that stay: Ray's metrics agent forgets a gauge that it is not told again within two of its intervals, some 20 s."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

from ray.util.metrics import Gauge

RETELL_S = 5.0
"""Half of Ray's interval."""


class LastingGauge:
    """A gauge of this process whose values are told again and again, until they are forgotten or the process ends.

    For figures that are told seldom. One that is told every few seconds is better off with Ray's own: it ends with who tells it.
    """

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self._gauge = Gauge(name, description, tag_keys)
        self._values: dict[frozenset[tuple[str, str]], float] = {}
        self._lock = threading.Lock()
        _teller.keep(self)

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        """Tell a value, as Ray's gauge does."""
        with self._lock:
            self._values[frozenset(tags.items())] = value
        self._gauge.set(value, dict(tags))

    def forget(self) -> None:
        """Tell no value any more. Those that were told vanish within half a minute."""
        with self._lock:
            self._values.clear()

    def retell(self) -> None:
        """Tell all values again."""
        with self._lock:
            values = dict(self._values)
        for tags, value in values.items():
            self._gauge.set(value, dict(tags))


class _Teller:
    """One thread a process, from its first gauge on."""

    def __init__(self) -> None:
        self._gauges: weakref.WeakSet[LastingGauge] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def keep(self, gauge: LastingGauge) -> None:
        with self._lock:
            self._gauges.add(gauge)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        never = threading.Event()
        while not never.wait(RETELL_S):
            with self._lock:
                gauges = list(self._gauges)
            for gauge in gauges:
                gauge.retell()


_teller = _Teller()
