"""Figures as Prometheus metrics, scraped from the monitor itself: its endpoint answers at /metrics on this machine only.

The same go through Ray's metrics agent (monitoring/export/ray_metrics.py), which is the way on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, start_http_server

from monitoring.export.metric_definitions import COUNTERS, GAUGES, Figure


class Exporter(Protocol):
    """Where figures go."""

    def show(self, figures: Iterable[Figure]) -> None:
        """Replace what was shown under the names of these figures."""

    def count(self, model: str, event: str) -> None: ...


class PrometheusExporter:
    """Metrics in a registry of their own. One model's newest figures at a time: older versions leave no series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges = {n: Gauge(n, told, labels, registry=self.registry) for n, (told, labels) in GAUGES.items()}
        self._counters = {e: Counter(n, d, ("model",), registry=self.registry) for e, (n, d) in COUNTERS.items()}

    def show(self, figures: Iterable[Figure]) -> None:
        given = list(figures)
        for name in {figure.name for figure in given}:
            self._gauges[name].clear()
        for name, labels, value in given:
            self._gauges[name].labels(*labels).set(value)

    def count(self, model: str, event: str) -> None:
        self._counters[event].labels(model).inc()

    def text(self) -> str:
        """The exposition format, as scraped."""
        return generate_latest(self.registry).decode()

    def serve(self, port: int = 0) -> str:
        """Answer scrapes from a thread of this process; port 0 takes a free one. Returns the address."""
        server, _ = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return f"http://127.0.0.1:{server.server_port}/metrics"
