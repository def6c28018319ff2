"""Metrics for Prometheus, scraped from the monitor itself: its endpoint answers at /metrics on its own machine only.

The same metrics go through Ray's metrics agent (monitoring/export/ray_metrics.py), which is the way on a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from monitoring.export.metric_definitions import COUNTERS, GAUGES, MetricValue


class MetricsExporter(Protocol):
    """Exports metrics."""

    def show(self, values: Sequence[MetricValue]) -> None:
        """Replace all earlier values of these gauges."""

    def count(self, model: str, event: str) -> None:
        """Add one to the counter of an event, a key of COUNTERS."""


class PrometheusExporter:
    """Metrics in a separate registry, with one model's newest values: older versions leave no series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(name, description, labels, registry=self.registry)
            for name, (description, labels) in GAUGES.items()
        }
        self._counters = {
            event: Counter(name, description, ("model",), registry=self.registry)
            for event, (name, description) in COUNTERS.items()
        }

    def show(self, values: Sequence[MetricValue]) -> None:
        """Replace all earlier values of these gauges."""
        for name in {value.name for value in values}:
            self._gauges[name].clear()
        for name, labels, value in values:
            self._gauges[name].labels(*labels).set(value)

    def count(self, model: str, event: str) -> None:
        """Add one to the counter of an event."""
        self._counters[event].labels(model).inc()

    def serve(self, port: int = 0) -> str:
        """Answer scrapes from a thread of this process; port 0 takes a free one. Returns the address."""
        server, _ = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return f"http://127.0.0.1:{server.server_port}/metrics"
