"""Write the configuration of Prometheus, its alert rules and the Grafana dashboard."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import local_cluster
from cluster.settings import Settings
from monitoring.export.alert_rules import render_prometheus_config, render_rules
from monitoring.export.grafana import FILE, render_dashboard

RULES = "rayloop_alerts.yml"
_WAIT_S = 15.0
_POLL_S = 0.2


def write_metrics_config(settings: Settings) -> Path:
    """Write them into ``metrics`` of the home, and the dashboard also where Ray provisions Grafana from.

    Returns:
        The folder ``metrics``.
    """
    folder = settings.home / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RULES).write_text(render_rules())
    door = f"127.0.0.1:{settings.haproxy_metrics_port}" if settings.door else ""
    configuration = render_prometheus_config(
        str(local_cluster.discovery_file(settings)), str(folder / RULES), settings.alertmanager, door
    )
    (folder / "prometheus.yml").write_text(configuration)
    provisioning_folder = _find_provisioning_folder(settings)
    for place in (folder, provisioning_folder) if provisioning_folder else (folder,):
        (place / FILE).write_text(render_dashboard())
    return folder


def _find_provisioning_folder(settings: Settings) -> Path | None:
    """Return Ray's folder of dashboards, which its dashboard creates while it starts; None after the deadline."""
    folder, deadline = local_cluster.metrics_folder(settings) / "grafana" / "dashboards", time.monotonic() + _WAIT_S
    while not any(folder.glob("*.json")):
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return folder
