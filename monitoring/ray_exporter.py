"""Figures through Ray's metrics agent: it is there on every node, and Ray writes the service discovery file that a
Prometheus reads. Names get the prefix ``ray_`` there. Needs a Ray process."""

from __future__ import annotations

from collections.abc import Iterable

from ray.util.metrics import Counter

from cluster.gauges import LastingGauge
from monitoring.figures import COUNTERS, GAUGES, Figure


class RayExporter:
    def __init__(self) -> None:
        self._gauges = {name: LastingGauge(name, told, labels) for name, (told, labels) in GAUGES.items()}
        self._counters = {event: Counter(name, told, ("model",)) for event, (name, told) in COUNTERS.items()}

    def show(self, figures: Iterable[Figure]) -> None:
        given = list(figures)
        for name in {figure.name for figure in given}:
            self._gauges[name].forget()
        for name, labels, value in given:
            self._gauges[name].set(value, labels)

    def count(self, model: str, event: str) -> None:
        self._counters[event].inc(1, {"model": model})
