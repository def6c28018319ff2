"""Prometheus' alert rules and configuration for what rayloop exports, as data. Pure.

Names are those of Ray's metrics agent, with the prefix ``ray_``. JSON is YAML, so that the files are written as JSON.
Each alert's ``runbook`` is a heading of docs/monitoring.md.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.values import Frozen


class Rule(Frozen):
    """An alert: it fires once ``expr`` has held for ``lasts``."""

    name: str
    expr: str
    lasts: str
    severity: str
    summary: str
    runbook: str


_JUDGED = "max by (model) (ray_rayloop_drift_window_start_seconds)"
_JUDGED_BEFORE = "max by (model) (ray_rayloop_drift_window_start_seconds offset 3d)"


def _counted(counter: str, within: str) -> str:
    """Whether an event was counted of late. A counter is exported from its first event on, of which ``increase`` knows nothing."""
    first = f"({counter} unless {counter} offset {within})"
    return f"sum by (model) ({first} or increase({counter}[{within}])) > 0"


RULES = (
    Rule(
        name="RayloopDrift",
        expr="max by (model, version) (ray_rayloop_drift_drifting) == 1",
        lasts="0m",
        severity="warning",
        summary="Traffic of {{ $labels.model }} v{{ $labels.version }} no longer looks like its training data",
        runbook="what-moved-and-what-to-do",
    ),
    Rule(
        name="RayloopQualityWorse",
        expr="max by (model, version, segment) (ray_rayloop_loss_worse) == 1",
        lasts="0m",
        severity="critical",
        summary="{{ $labels.model }} v{{ $labels.version }} {{ $labels.segment }} loses more than on held-out rows, for sure",
        runbook="what-each-alarm-means",
    ),
    Rule(
        name="RayloopMonitorStandsStill",
        # By model: an actor that begins anew, or another version, is a series of its own. Asked for three days already: a model
        # that is new has had no time for a second window.
        expr="(sum by (model) (rate(ray_rayloop_requests_total[1d])) > 0"
        " and on (model) sum by (model) (ray_rayloop_requests_total offset 3d))"
        f" unless on (model) ({_JUDGED} > {_JUDGED_BEFORE})"
        f" unless on (model) ({_JUDGED} unless on (model) {_JUDGED_BEFORE})",
        lasts="1h",
        severity="warning",
        summary="{{ $labels.model }} is asked, and no window was judged for three days",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopMonitorFails",
        expr=_counted("ray_rayloop_drift_failures_total", "30m"),
        lasts="15m",
        severity="warning",
        summary="The monitor of {{ $labels.model }} goes on from failures: looks, actions, receivers or the registry",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopProfilesRejected",
        expr="increase(ray_rayloop_drift_rejected_profiles_total[15m]) > 10",
        lasts="15m",
        severity="warning",
        summary="Replicas of {{ $labels.model }} send profiles that cannot be used",
        runbook="what-moved-and-what-to-do",
    ),
    Rule(
        name="RayloopServerErrors",
        expr='sum by (model) (rate(ray_rayloop_http_requests_total{status=~"5.."}[5m]))'
        " / sum by (model) (rate(ray_rayloop_http_requests_total[5m])) > 0.01",
        lasts="5m",
        severity="critical",
        summary="{{ $value | humanizePercentage }} of requests to {{ $labels.model }} are answered with 5xx",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopSlow",
        expr="histogram_quantile(0.99, sum by (model, le) (rate(ray_rayloop_latency_ms_bucket_total[5m]))) > 250",
        lasts="10m",
        severity="warning",
        summary="1 % of requests to {{ $labels.model }} spend more than {{ $value | humanize }} ms on features and model",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopQueue",
        expr="max by (model) (ray_rayloop_requests_under_way) > 128",
        lasts="5m",
        severity="warning",
        summary="{{ $value }} requests wait in one replica of {{ $labels.model }}; beyond 512 they are refused",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopNoReplica",
        expr='sum by (application) (ray_serve_deployment_replica_healthy{deployment="ModelServer"}) == 0',
        lasts="1m",
        severity="critical",
        summary="{{ $labels.application }} has no healthy replica",
        runbook="alerts-of-prometheus",
    ),
    Rule(
        name="RayloopLogLosesRows",
        expr=_counted("ray_rayloop_log_dropped_rows_total", "15m"),
        lasts="0m",
        severity="warning",
        summary="The prediction log of {{ $labels.model }} lacks rows: the ledger does not keep up, or is gone",
        runbook="alerts-of-prometheus",
    ),
)
COST = {
    "rayloop:cost_per_hour:by_model": 'sum by (model) (rate(ray_rayloop_cost{tag=""}[1h])) * 3600',
    "rayloop:cost_per_hour:by_tag": 'sum by (tag, value) (rate(ray_rayloop_cost{tag!=""}[1h])) * 3600',
}


def rules_file() -> str:
    """A rule file: alerts, and cost per hour as recorded series."""
    recorded = [{"record": name, "expr": expr} for name, expr in COST.items()]
    groups = [
        {"name": "rayloop", "rules": [_alert(rule) for rule in RULES]},
        {"name": "rayloop_cost", "rules": recorded},
    ]
    return json.dumps({"groups": groups}, indent=1) + "\n"


def prometheus_file(discovery: str, rules: str, alertmanager: str = "") -> str:
    """A configuration that scrapes what Ray's ``discovery`` file lists; ``alertmanager`` is host:port, if there is one."""
    config: dict[str, Any] = {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [discovery]}]}],
    }
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return json.dumps(config, indent=1) + "\n"


def _alert(rule: Rule) -> dict[str, Any]:
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": rule.lasts,
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary, "runbook": f"docs/monitoring.md#{rule.runbook}"},
    }
