"""Names of metrics with their labels and types, alerts with their expressions, and Grafana's queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import prometheus_client
import pytest
from ray.util import metrics

from cluster import persistent_gauge
from deployments.telemetry.lost_rows import LostRows
from deployments.telemetry.metrics import ReplicaMetrics
from monitoring.export import ray_metrics
from monitoring.export.alert_rules import render_prometheus_config, render_rules
from monitoring.export.grafana import FILE, render_dashboard
from monitoring.export.metric_definitions import COUNTERS, GAUGES
from monitoring.export.prometheus import PrometheusExporter
from rayloop.cli.metrics_config import RULES
from tests.factories.golden.files import golden
from trainers.loop import worker_group

KINDS = ("Counter", "Gauge", "Histogram")


class _NoTables:
    """A catalog without tables."""

    def exists(self, name: str) -> bool:
        return False


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is declared to Ray, by name."""
    declarations: dict[str, Any] = {}

    def recorder(kind: str) -> type:
        class Recorder:
            def __init__(
                self,
                name: str,
                description: str = "",
                boundaries: Sequence[float] | tuple[str, ...] = (),
                tag_keys: tuple[str, ...] = (),
            ) -> None:
                # A histogram has its boundaries third, the others their labels.
                labels = tag_keys or tuple(boundaries)
                declarations[name] = {"type": kind, "labels": sorted(str(label) for label in labels)}

            def set(self, value: float, tags: dict[str, str]) -> None: ...

        return Recorder

    for kind in KINDS:
        replacement = recorder(kind)
        for module in (metrics, persistent_gauge, ray_metrics, worker_group):
            if hasattr(module, kind):
                monkeypatch.setattr(module, kind, replacement)
    return declarations


def test_metrics_of_ray_and_their_labels_are_unchanged(declared: dict[str, Any]) -> None:
    ReplicaMetrics("trips", "replica")
    ray_metrics.RayMetricsExporter()
    worker_group.TrainGauges("trips")
    LostRows("trips", _NoTables())  # type: ignore[arg-type]
    golden("metrics", declared)


def test_metrics_of_the_monitor_endpoint_are_unchanged() -> None:
    exporter = PrometheusExporter()
    for event in COUNTERS:
        exporter.count("trips", event)
    families = {family.name: family.type for family in exporter.registry.collect()}
    labels = {name: sorted(labels) for name, (_, labels) in GAUGES.items()}
    assert isinstance(exporter.registry, prometheus_client.CollectorRegistry)
    golden("metrics_of_monitor", {name: [kind, labels.get(name, ["model"])] for name, kind in families.items()})


def test_alerts_and_their_expressions_are_unchanged() -> None:
    rules = json.loads(render_rules())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "annotations" in rule:
                rule["annotations"] = sorted(rule["annotations"])
    golden(
        "alerts",
        {RULES: rules, "prometheus.yml": json.loads(render_prometheus_config("discovery", "rules", "host:9093"))},
    )


def test_grafana_queries_are_unchanged() -> None:
    dashboard = json.loads(render_dashboard())
    panels = [
        [panel["type"], *(target["expr"] for target in panel.get("targets", []))]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]
    variables = {variable["name"]: variable.get("definition", "") for variable in dashboard["templating"]["list"]}
    golden("grafana", {"file": FILE, "uid": dashboard["uid"], "panels": panels, "variables": variables})
