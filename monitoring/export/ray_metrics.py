"""Metrics through Ray's metrics agent, which runs on every node; Ray writes the service discovery file for Prometheus.

Names get the prefix ``ray_`` there. Needs a Ray process.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from cluster.persistent_gauge import PersistentGauge
from monitoring.export.metric_definitions import COUNTERS, GAUGES, USAGE_GAUGES, MetricValue


class RayMetricsExporter:
    """Exports metrics to Ray's agent. All but the usage gauges persist until they are replaced."""

    def __init__(self) -> None:
        self._persistent = {
            name: PersistentGauge(name, description, labels)
            for name, (description, labels) in GAUGES.items()
            if name not in USAGE_GAUGES
        }
        self._usage = {name: Gauge(name, description, labels) for name, (description, labels) in USAGE_GAUGES.items()}
        self._counters = {
            event: Counter(name, description, ("model",)) for event, (name, description) in COUNTERS.items()
        }

    def show(self, values: Sequence[MetricValue]) -> None:
        """Replace all earlier values of these gauges."""
        for name in {value.name for value in values} & set(self._persistent):
            self._persistent[name].clear()
        for name, labels, value in values:
            tags = dict(zip(GAUGES[name][1], labels, strict=True))
            (self._usage.get(name) or self._persistent[name]).set(value, tags)

    def count(self, model: str, event: str) -> None:
        """Add one to the counter of an event."""
        self._counters[event].inc(1, {"model": model})
