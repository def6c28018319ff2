"""A Grafana dashboard of the metrics that rayloop exports. Pure.

It has the form of Ray's own dashboards (same variables, numbered panels, no separate data source), so that the Grafana
that Ray's dashboard embeds finds it in the folder that Ray provisions.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

UID = "rayloopModels"
FILE = "rayloop_grafana_dashboard.json"
WIDTH, HEIGHT = 12, 8
_OF_SESSION = 'SessionName=~"$SessionName"'
_OF_MODEL = f'model=~"$Model",{_OF_SESSION}'


class Panel(NamedTuple):
    """A plot."""

    title: str
    targets: dict[str, str]
    """Expressions by legend; ``$m`` stands for the filters by model and session, ``$s`` for that by session."""
    unit: str = "none"
    description: str = ""
    limit: float | None = None
    """Where a line is drawn."""


def _rate(labels: str, series: str, within: str) -> str:
    return f"sum by ({labels}) (rate({series}[{within}]))"


_LATENCY = _rate("le, model", "ray_rayloop_latency_ms_bucket_total{$m}", "5m")
_MODEL_COST, _TAG_COST = 'ray_rayloop_cost{tag="",$m}', 'ray_rayloop_cost{tag!="",$m}'

SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Drift": (
        Panel(
            "Distance over threshold, by column",
            {"{{model}} v{{version}} {{column}}": "topk(10, ray_rayloop_drift_ratio{$m})"},
            description="From 1 on a column is too far from its training data.",
            limit=1.0,
        ),
        Panel(
            "Segments: largest distance over threshold",
            {"{{segment}}": "ray_rayloop_segment_ratio{$m}", "labels": "ray_rayloop_label_drift_ratio{$m}"},
            limit=1.0,
        ),
        Panel(
            "Domain classifier",
            {"{{model}} AUC": "ray_rayloop_look_auc{$m}"},
            description="0.5: live rows do not differ from training rows.",
            limit=0.6,
        ),
        Panel(
            "Alarms, actions, failures",
            {
                "alarms": "increase(ray_rayloop_drift_alarms_total{$m}[1h])",
                "actions": "increase(ray_rayloop_drift_actions_total{$m}[1h])",
                "failures": "increase(ray_rayloop_drift_failures_total{$m}[1h])",
                "retrainings missed": "increase(ray_rayloop_retrains_missed_total{$m}[1h])",
                "retrainings withheld": "increase(ray_rayloop_retrains_withheld_total{$m}[1h])",
                "retrainings failed": "increase(ray_rayloop_retrains_failed_total{$m}[1h])",
            },
        ),
    ),
    "Performance": (
        Panel(
            "Loss by labels, with bounds",
            {
                "loss {{segment}}": "ray_rayloop_loss{$m}",
                "low {{segment}}": "ray_rayloop_loss_low{$m}",
                "high {{segment}}": "ray_rayloop_loss_high{$m}",
                "held out {{segment}}": "ray_rayloop_loss_reference{$m}",
            },
            description="Bounds hold at every analysis, however many labels have arrived.",
        ),
        Panel(
            "Estimated and observed",
            {"{{method}} {{metric}}": "ray_rayloop_estimated{$m}", "observed {{metric}}": "ray_rayloop_observed{$m}"},
        ),
        Panel(
            "Differences between groups",
            {
                "{{limit}}": "ray_rayloop_disparity{$m}",
                "at least {{limit}}": "ray_rayloop_disparity_low{$m}",
                "allowed {{limit}}": "ray_rayloop_disparity_allowed{$m}",
            },
            description="The bound holds at every analysis; above what is allowed it is an alarm.",
        ),
        Panel("Labels that have arrived", {"{{model}}": 'ray_rayloop_label_share{segment="",$m}'}, unit="percentunit"),
    ),
    "Serving": (
        Panel(
            "Requests per second",
            {
                "{{model}} v{{version}} {{variant}}": _rate(
                    "model, version, variant", "ray_rayloop_requests_total{$m}", "1m"
                )
            },
            unit="reqps",
        ),
        Panel(
            "Latency, features and model",
            {f"p{q}": f"histogram_quantile(0.{q}, {_LATENCY})" for q in (50, 95, 99)},
            unit="ms",
        ),
        Panel(
            "Errors per second",
            {
                "HTTP {{status}}": _rate("model, status", 'ray_rayloop_http_requests_total{status!~"2..",$m}', "1m"),
                "{{variant}} failed": _rate("model, variant", "ray_rayloop_errors_total{$m}", "1m"),
            },
            unit="reqps",
        ),
        Panel(
            "Requests queued, and under way in replicas",
            {
                "{{model}} {{replica}}": "ray_rayloop_requests_under_way{$m}",
                "{{application}}": "sum by (application) (ray_serve_replica_processing_queries{$s})",
            },
        ),
        Panel(
            "Replicas",
            {
                "{{model}} reporting": "ray_rayloop_replicas{$m}",
                "{{application}} healthy": "sum by (application) (ray_serve_deployment_replica_healthy{$s})",
            },
        ),
    ),
    "Resources and cost": (
        Panel("CPUs of a model: reserved and used", {"{{model}} {{kind}}": "rate(ray_rayloop_cpu_seconds{$m}[5m])"}),
        Panel(
            "GPUs",
            {
                "{{model}} reserved": "rate(ray_rayloop_gpu_seconds{$m}[5m])",
                "{{instance}} utilization": "ray_node_gpus_utilization{$s} / 100",
            },
        ),
        Panel("CPU of nodes", {"{{instance}}": "ray_node_cpu_utilization{$s}"}, unit="percent"),
        Panel("Cost per hour, by model", {"{{model}}": f"{_rate('model', _MODEL_COST, '1h')} * 3600"}),
        Panel("Cost per hour, by tag", {"{{tag}} {{value}}": f"{_rate('tag, value', _TAG_COST, '1h')} * 3600"}),
    ),
}


def render_dashboard() -> str:
    """Render the dashboard as JSON."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, section in SECTIONS.items():
        panels.append(_row(title, len(panels) + 1, y))
        y += 1
        for i, panel in enumerate(section):
            at = {"h": HEIGHT, "w": WIDTH, "x": WIDTH * (i % 2), "y": y + HEIGHT * (i // 2)}
            panels.append(_panel(panel, len(panels) + 1, at))
        y += HEIGHT * -(-len(section) // 2)
    content = {
        "uid": UID,
        "title": "Rayloop models",
        "tags": ["rayloop"],
        "rayMeta": ["excludesSystemRoutes"],
        "schemaVersion": 27,
        "editable": True,
        "graphTooltip": 1,
        "refresh": False,
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "panels": panels,
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    style = {"lineWidth": 1, "fillOpacity": 10, "thresholdsStyle": {"mode": "line" if panel.limit else "off"}}
    defaults = {"unit": panel.unit, "custom": style, "thresholds": {"mode": "absolute", "steps": steps}}
    targets = [
        {
            "expr": expr.replace("$m", _OF_MODEL).replace("$s", _OF_SESSION),
            "legendFormat": legend,
            "refId": chr(ord("A") + i),
            "exemplar": True,
            "interval": "",
        }
        for i, (legend, expr) in enumerate(panel.targets.items())
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": "${datasource}",
        "gridPos": at,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _row(title: str, number: int, y: int) -> dict[str, Any]:
    at = {"h": 1, "w": 2 * WIDTH, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": at, "panels": []}


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1}
    return [
        source,
        _values("SessionName", "label_values(ray_node_network_receive_speed, SessionName)"),
        _values("Model", "label_values(ray_rayloop_requests_total, model)"),
    ]


def _values(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": "${datasource}",
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "hide": 0,
    }
