"""Drift as Prometheus metrics, twice: scraped from the monitor itself, and through Ray's metrics agent.

Ray's agent is the way on a cluster: it is there on every node, and Ray writes the service discovery file that a
Prometheus reads. The monitor's own endpoint needs neither, and answers at /metrics on this machine only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, start_http_server
from ray.util.metrics import Counter as RayCounter
from ray.util.metrics import Gauge as RayGauge

from monitoring.alarm import ColumnResult, WindowResult

COLUMN_GAUGES: dict[str, tuple[str, Callable[[ColumnResult], float]]] = {
    "rayloop_drift_ratio": ("Distance from the reference divided by its threshold; 1 is too far", lambda c: c.ratio),
    "rayloop_drift_distance": ("Largest difference in the share of rows, 0 to 1", lambda c: c.distances.statistic),
    "rayloop_drift_psi": ("Population stability index", lambda c: c.distances.psi),
    "rayloop_drift_missing_difference": ("Share of missing cells less the reference's", lambda c: c.distances.nulls),
    "rayloop_drift_new_share": ("Share of category values unknown to the reference", lambda c: c.distances.new),
}
WINDOW_ROWS = ("rayloop_drift_window_rows", "Rows in the newest run of windows")
WINDOW_START = ("rayloop_drift_window_start_seconds", "Event time at which the newest closed window starts")
COUNTERS = {
    "windows": ("rayloop_drift_windows", "Windows closed"),
    "alarms": ("rayloop_drift_alarms", "Alarms raised"),
    "actions": ("rayloop_drift_actions", "Actions taken on alarms"),
    "rejected": ("rayloop_drift_rejected_profiles", "Live profiles that could not be used"),
    "failures": ("rayloop_drift_failures", "Failures inside the monitor that it went on from"),
}
WINDOW_LABELS = ("model", "version")
COLUMN_LABELS = (*WINDOW_LABELS, "column")


class Exporter(Protocol):
    """Where figures go."""

    def window(self, model: str, result: WindowResult) -> None: ...

    def count(self, model: str, event: str) -> None: ...


class PrometheusExporter:
    """Metrics in a registry of their own. One model's newest window at a time: older versions leave no series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._columns = {n: Gauge(n, d, COLUMN_LABELS, registry=self.registry) for n, (d, _) in COLUMN_GAUGES.items()}
        self._rows = Gauge(*WINDOW_ROWS, WINDOW_LABELS, registry=self.registry)
        self._start = Gauge(*WINDOW_START, WINDOW_LABELS, registry=self.registry)
        self._counters = {e: Counter(n, d, ("model",), registry=self.registry) for e, (n, d) in COUNTERS.items()}

    def window(self, model: str, result: WindowResult) -> None:
        for gauge in (*self._columns.values(), self._rows, self._start):
            gauge.clear()
        self._rows.labels(model, result.version).set(result.rows)
        self._start.labels(model, result.version).set(result.window)
        for name, gauge in self._columns.items():
            read = COLUMN_GAUGES[name][1]
            for column, found in result.columns.items():
                gauge.labels(model, result.version, column).set(read(found))

    def count(self, model: str, event: str) -> None:
        self._counters[event].labels(model).inc()

    def text(self) -> str:
        """The exposition format, as scraped."""
        return generate_latest(self.registry).decode()

    def serve(self, port: int = 0) -> str:
        """Answer scrapes from a thread of this process; port 0 takes a free one. Returns the address."""
        server, _ = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return f"http://127.0.0.1:{server.server_port}/metrics"


class RayExporter:
    """The same metrics through Ray's agent. Needs a Ray process."""

    def __init__(self) -> None:
        self._columns = {n: RayGauge(n, d, COLUMN_LABELS) for n, (d, _) in COLUMN_GAUGES.items()}
        self._rows = RayGauge(*WINDOW_ROWS, WINDOW_LABELS)
        self._start = RayGauge(*WINDOW_START, WINDOW_LABELS)
        self._counters = {event: RayCounter(n, d, ("model",)) for event, (n, d) in COUNTERS.items()}

    def window(self, model: str, result: WindowResult) -> None:
        tags = {"model": model, "version": result.version}
        self._rows.set(result.rows, tags)
        self._start.set(result.window, tags)
        for name, gauge in self._columns.items():
            read = COLUMN_GAUGES[name][1]
            for column, found in result.columns.items():
                gauge.set(read(found), {**tags, "column": column})

    def count(self, model: str, event: str) -> None:
        self._counters[event].inc(1, {"model": model})
