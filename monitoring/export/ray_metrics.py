"""Figures through Ray's metrics agent: it is there on every node, and Ray writes the service discovery file that a
Prometheus reads. Names get the prefix ``ray_`` there. Needs a Ray process."""

from __future__ import annotations

from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from cluster.persistent_gauge import LastingGauge
from monitoring.export.metric_definitions import COUNTERS, GAUGES, USE, Figure


class RayExporter:
    def __init__(self) -> None:
        lasting = {name: of for name, of in GAUGES.items() if name not in USE}
        self._lasting = {name: LastingGauge(name, told, labels) for name, (told, labels) in lasting.items()}
        self._use = {name: Gauge(name, told, labels) for name, (told, labels) in USE.items()}
        self._counters = {event: Counter(name, told, ("model",)) for event, (name, told) in COUNTERS.items()}

    def show(self, figures: Iterable[Figure]) -> None:
        given = list(figures)
        for name in {figure.name for figure in given} & set(self._lasting):
            self._lasting[name].forget()
        for name, labels, value in given:
            tags = dict(zip(GAUGES[name][1], labels, strict=True))
            (self._use.get(name) or self._lasting[name]).set(value, tags)

    def count(self, model: str, event: str) -> None:
        self._counters[event].inc(1, {"model": model})
