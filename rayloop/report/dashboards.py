"""Put what Prometheus and Grafana need where they look for it, or where people are told to point them."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import local_cluster
from cluster.settings import Settings
from monitoring.export.alert_rules import prometheus_file, rules_file
from monitoring.export.grafana import FILE, dashboard

RULES = "rayloop_alerts.yml"
_WAIT_S = 15.0
_POLL_S = 0.2


def write(settings: Settings) -> Path:
    """Prometheus' configuration, alert rules and the dashboard into ``metrics`` of the home; returns that folder.

    The dashboard goes into the folder that Ray provisions Grafana from as well, once Ray has made it.
    """
    folder = settings.home / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RULES).write_text(rules_file())
    found = prometheus_file(str(local_cluster.discovery_file(settings)), str(folder / RULES), settings.alertmanager)
    (folder / "prometheus.yml").write_text(found)
    provisioned = _provisioned(settings)
    for place in (folder, provisioned) if provisioned else (folder,):
        (place / FILE).write_text(dashboard())
    return folder


def _provisioned(settings: Settings) -> Path | None:
    """Ray's dashboard makes the folder while it starts; None when it has not within the deadline."""
    folder, deadline = local_cluster.metrics_folder(settings) / "grafana" / "dashboards", time.monotonic() + _WAIT_S
    while not any(folder.glob("*.json")):
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return folder
