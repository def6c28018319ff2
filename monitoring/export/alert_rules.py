"""Prometheus alert rules and configuration for the metrics that rayloop exports. Pure.

Names are those of Ray's metrics agent, with the prefix ``ray_``. JSON is valid YAML: the files contain JSON.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.door.status import LEAST_VALIDITY
from cluster.values import Frozen

DOCUMENTATION_URL = "https://rayloop.github.io/rayloop"
"""As in pyproject.toml."""


class AlertRule(Frozen):
    """An alert: it fires once ``expr`` has been true for ``duration``."""

    name: str
    expr: str
    summary: str
    duration: str = "0m"
    severity: str = "warning"
    runbook: str = "monitoring/#alerts-of-prometheus"
    """Page of the documentation and the anchor of its heading, below ``DOCUMENTATION_URL``."""


_PLATFORM = "operations/#alerts-of-the-platform"
_RETRAINING = "retraining/#what-starts-and-what-does-not"
_IN_FLIGHT = "ray_rayloop_requests_under_way"
_GPUS = "ray_node_gpus_available"
_DOOR = 'up{job="door"}'
_WINDOW_START = "max by (model) (ray_rayloop_drift_window_start_seconds)"
_WINDOW_START_BEFORE = "max by (model) (ray_rayloop_drift_window_start_seconds offset 3d)"


def _increase_expr(counter: str, within: str, by: str = " by (model)") -> str:
    """Whether an event was counted recently. A counter starts with its first event, which ``increase`` misses."""
    first = f"({counter} unless {counter} offset {within})"
    return f"sum{by} ({first} or increase({counter}[{within}])) > 0"


RULES = (
    AlertRule(
        name="RayloopDrift",
        expr="max by (model, version) (ray_rayloop_drift_drifting) == 1",
        summary="Traffic of {{ $labels.model }} v{{ $labels.version }} no longer resembles its training data",
        runbook="monitoring/#what-moved-and-what-to-do",
    ),
    AlertRule(
        name="RayloopQualityWorse",
        expr="max by (model, version, segment) (ray_rayloop_loss_worse) == 1",
        severity="critical",
        summary="{{ $labels.model }} v{{ $labels.version }} {{ $labels.segment }} is worse than on held-out rows",
        runbook="monitoring/#what-each-alarm-means",
    ),
    AlertRule(
        name="RayloopDisparity",
        expr="max by (model, version, limit) (ray_rayloop_disparity_exceeded) == 1",
        summary="{{ $labels.model }} v{{ $labels.version }}: the {{ $labels.limit }} differs by more than allowed",
        runbook="monitoring/#what-each-alarm-means",
    ),
    AlertRule(
        name="RayloopMonitorStandsStill",
        # By model: a restarted actor or another version is a separate series. Only if there were requests three days
        # ago: a new model has not had time for a second window.
        expr="(sum by (model) (rate(ray_rayloop_requests_total[1d])) > 0"
        " and on (model) sum by (model) (ray_rayloop_requests_total offset 3d))"
        f" unless on (model) ({_WINDOW_START} > {_WINDOW_START_BEFORE})"
        f" unless on (model) ({_WINDOW_START} unless on (model) {_WINDOW_START_BEFORE})",
        duration="1h",
        summary="{{ $labels.model }} receives requests, and no window has closed for three days",
    ),
    AlertRule(
        name="RayloopMonitorFails",
        expr=_increase_expr("ray_rayloop_drift_failures_total", "30m"),
        duration="15m",
        summary="The monitor of {{ $labels.model }} fails: see analyses, actions, notifications and the registry",
    ),
    AlertRule(
        name="RayloopRetrainFails",
        expr=_increase_expr("ray_rayloop_retrains_failed_total", "1d"),
        summary="A retraining of {{ $labels.model }} failed: the champion stays",
        runbook=_RETRAINING,
    ),
    AlertRule(
        name="RayloopRetrainMissed",
        expr=_increase_expr("ray_rayloop_retrains_missed_total", "1d")
        + " or "
        + _increase_expr("ray_rayloop_retrains_withheld_total", "1d"),
        summary="A retraining of {{ $labels.model }} was due and did not start",
        runbook=_RETRAINING,
    ),
    AlertRule(
        name="RayloopProfilesRejected",
        expr="increase(ray_rayloop_drift_rejected_profiles_total[15m]) > 10",
        duration="15m",
        summary="Replicas of {{ $labels.model }} send profiles that the monitor rejects",
        runbook="monitoring/#what-moved-and-what-to-do",
    ),
    AlertRule(
        name="RayloopServerErrors",
        expr='sum by (model) (rate(ray_rayloop_http_requests_total{status=~"5..|408"}[5m]))'
        " / sum by (model) (rate(ray_rayloop_http_requests_total[5m])) > 0.01",
        duration="5m",
        severity="critical",
        summary="{{ $value | humanizePercentage }} of requests to {{ $labels.model }} are answered with 5xx or 408",
    ),
    AlertRule(
        name="RayloopSlow",
        expr="histogram_quantile(0.99, sum by (model, le) (rate(ray_rayloop_latency_ms_bucket_total[5m]))) > 250",
        duration="10m",
        summary="1% of requests to {{ $labels.model }} take over {{ $value | humanize }} ms for features and model",
    ),
    AlertRule(
        name="RayloopQueue",
        expr="max by (model) (ray_rayloop_requests_under_way) > 128",
        duration="5m",
        summary="{{ $value }} requests wait in one replica of {{ $labels.model }}; beyond 512 they are refused",
    ),
    AlertRule(
        name="RayloopNoReplica",
        expr='sum by (application) (ray_serve_deployment_replica_healthy{deployment="ModelServer"}) == 0',
        duration="1m",
        severity="critical",
        summary="{{ $labels.application }} has no healthy replica",
    ),
    AlertRule(
        name="RayloopLogLosesRows",
        expr=_increase_expr("ray_rayloop_log_dropped_rows_total", "15m"),
        summary="The prediction log of {{ $labels.model }} lacks rows: the log writer does not keep up, or is gone",
    ),
    AlertRule(
        name="RayloopCommitsFail",
        # Longer than one failure is in sight.
        expr=_increase_expr("ray_rayloop_log_commit_failures_total", "5m"),
        duration="10m",
        summary="The prediction log of {{ $labels.model }} cannot be committed: rows are dropped later",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopRolloutPassFails",
        expr=_increase_expr("ray_rayloop_rollout_pass_failures_total", "5m"),
        duration="10m",
        severity="critical",
        summary="The rollout of {{ $labels.model }} is stuck: every pass of its controller fails",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopRolloutInvalid",
        expr="max by (model, check) (ray_rayloop_rollout_invalid) == 1",
        summary="The rollout of {{ $labels.model }} is invalid: its evidence fails the check of {{ $labels.check }}",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopLateHarm",
        expr="max by (model, version) (ray_rayloop_late_harm) == 1",
        summary="v{{ $labels.version }} of {{ $labels.model }} answers, and labels show that it is worse",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopModelSilent",
        expr=f"group by (model) ({_IN_FLIGHT} offset 15m) unless on (model) group by (model) ({_IN_FLIGHT})",
        duration="2m",
        severity="critical",
        summary="No replica of {{ $labels.model }} exports metrics, and one did a quarter of an hour ago",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopNoMetrics",
        expr='absent(up{job="ray"} == 1)',
        duration="2m",
        severity="critical",
        summary="Prometheus reaches no node of the cluster: none of the other alerts can fire",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopNodeSilent",
        expr='max by (instance) (up{job="ray"}) == 0',
        duration="1m",
        summary="Node {{ $labels.instance }} does not answer",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopNodeLost",
        expr=_increase_expr("ray_node_failure_total", "10m", by=""),
        summary="A node left the cluster without being drained",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopDiskFillsUp",
        expr="min by (ip) (ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage)) < 0.1",
        duration="5m",
        severity="critical",
        summary="Node {{ $labels.ip }} has {{ $value | humanizePercentage }} of its disk left; Ray stops at 5%",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopMemoryShort",
        expr="min by (ip) (ray_node_mem_available / ray_node_mem_total) < 0.07",
        duration="5m",
        severity="critical",
        summary="Node {{ $labels.ip }} has {{ $value | humanizePercentage }} of its memory left; Ray kills tasks at 5%",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopGpuLost",
        # Ray exports a series for each GPU. Only nodes that still answer: others have an alert of their own.
        expr=f"count by (ip) ({_GPUS} offset 1h)"
        f" unless on (ip) (count by (ip) ({_GPUS}) >= count by (ip) ({_GPUS} offset 1h))"
        " and on (ip) max by (ip) (ray_node_mem_total)",
        duration="2m",
        summary="Node {{ $labels.ip }} has fewer GPUs than an hour ago",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopDoorDown",
        # Also one that Prometheus knew a quarter of an hour ago, and does not scrape any more.
        expr=f"max by (instance) ({_DOOR}) == 0"
        f" or max by (instance) ({_DOOR} offset 15m) unless on (instance) max by (instance) ({_DOOR})",
        duration="1m",
        severity="critical",
        summary="The door at {{ $labels.instance }} does not answer: requests to that host fail",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopDoorUnsupervised",
        expr="time() - max by (instance) (rayloop_door_supervised_timestamp_seconds) > 30",
        duration="1m",
        summary="The door at {{ $labels.instance }} has no supervisor: it no longer adds or removes replicas",
        runbook=_PLATFORM,
    ),
    AlertRule(
        name="RayloopCertificateExpires",
        expr="min by (instance, certificate) (rayloop_door_certificate_expiry_timestamp_seconds)"
        f" - time() < {LEAST_VALIDITY.days} * 86400",
        duration="5m",
        summary="The certificate ({{ $labels.certificate }}) of the door at {{ $labels.instance }}"
        " expires in {{ $value | humanizeDuration }}",
        runbook=_PLATFORM,
    ),
)
COST = {
    "rayloop:cost_per_hour:by_model": 'sum by (model) (rate(ray_rayloop_cost{tag=""}[1h])) * 3600',
    "rayloop:cost_per_hour:by_tag": 'sum by (tag, value) (rate(ray_rayloop_cost{tag!=""}[1h])) * 3600',
}


def render_rules() -> str:
    """Render the rule file: alerts, and cost per hour as recorded series."""
    recorded = [{"record": name, "expr": expr} for name, expr in COST.items()]
    groups = [
        {"name": "rayloop", "rules": [_alert(rule) for rule in RULES]},
        {"name": "rayloop_cost", "rules": recorded},
    ]
    return json.dumps({"groups": groups}, indent=1) + "\n"


def render_prometheus_config(discovery: str, rules: str, alertmanager: str = "", door: str = "") -> str:
    """Render a configuration that scrapes every node, and this machine's door.

    Args:
        discovery: Path of the service discovery file that Ray writes.
        rules: Path of the rule file.
        alertmanager: Address of an Alertmanager, host:port; empty for none.
        door: Address of the door's metrics, host:port; empty for none.
    """
    config: dict[str, Any] = {
        "global": {"scrape_interval": "10s", "evaluation_interval": "10s"},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [discovery]}]}],
    }
    if door:
        config["scrape_configs"] += _door_jobs(door)
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return json.dumps(config, indent=1) + "\n"


def _door_jobs(address: str) -> list[dict[str, Any]]:
    """The door's own metrics, and those of its HAProxy without empty slots, of which there are thousands."""
    targets = [{"targets": [address]}]
    return [
        {"job_name": "door", "metrics_path": "/status", "static_configs": targets},
        {"job_name": "door_haproxy", "params": {"no-maint": [""]}, "static_configs": targets},
    ]


def _alert(rule: AlertRule) -> dict[str, Any]:
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": rule.duration,
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary, "runbook_url": f"{DOCUMENTATION_URL}/{rule.runbook}"},
    }
