"""Alert rules and dashboard: promtool checks and runs them, a real server scrapes and fires them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitoring.export.alert_rules import DOCUMENTATION_URL, RULES, render_prometheus_config, render_rules
from monitoring.export.grafana import render_dashboard
from monitoring.export.metric_definitions import COUNTERS, GAUGES, MetricValue
from monitoring.export.prometheus import PrometheusExporter
from tests.factories.until import until

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool here")
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="there is no prometheus here")
LIMIT_S = 60.0
ROOT = Path(__file__).parents[4]


def promtool(*words: str) -> str:
    process = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def series(name: str, **labels: str) -> str:
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"


M = {"model": "m"}
V = {**M, "version": "1"}
NODE = {"ip": "10.0.0.1"}
DOOR = {"instance": "127.0.0.1:9101"}
PEER = {**DOOR, "certificate": "peer"}
SUPERVISED = "rayloop_door_supervised_timestamp_seconds"
EXPIRY = "rayloop_door_certificate_expiry_timestamp_seconds"
INVALID = {**M, "check": "labels"}
NO_VALUES = " ".join(["NaN"] * 21)
# Rule, series with values minute by minute, time of evaluation, and the labels it fires with; None: it must not fire.
CASES: list[tuple[str, dict[str, str], str, dict[str, str] | None]] = [
    ("RayloopDrift", {series("ray_rayloop_drift_drifting", **V): "0 0 1 1"}, "2m", V),
    ("RayloopDrift", {series("ray_rayloop_drift_drifting", **V): "0 0 1 1"}, "1m", None),
    (
        "RayloopQualityWorse",
        {series("ray_rayloop_loss_worse", **V, segment="shop = a"): "0 1"},
        "1m",
        {**V, "segment": "shop = a"},
    ),
    (
        "RayloopDisparity",
        {series("ray_rayloop_disparity_exceeded", **V, limit="positive rate by sex"): "0 1"},
        "1m",
        {**V, "limit": "positive rate by sex"},
    ),
    (
        "RayloopMonitorStandsStill",
        {
            series("ray_rayloop_drift_window_start_seconds", **V): "5+0x6000",
            series("ray_rayloop_requests_total", **M, variant="champion"): "0+60x6000",
        },
        "5000m",
        M,
    ),
    ("RayloopMonitorStandsStill", {series("ray_rayloop_requests_total", **M): "0+60x6000"}, "5000m", M),
    (
        # A new model with windows of a day, the first of which has closed.
        "RayloopMonitorStandsStill",
        {
            series("ray_rayloop_drift_window_start_seconds", **V): "_x60 5+0x1440",
            series("ray_rayloop_requests_total", **M): "0+60x6000",
        },
        "300m",
        None,
    ),
    (
        # The actor restarted a moment after a window, and exports the same metrics again.
        "RayloopMonitorStandsStill",
        {
            series("ray_rayloop_drift_window_start_seconds", **V, WorkerId="a"): "5+0x4400 86405+0x100 stale",
            series("ray_rayloop_drift_window_start_seconds", **V, WorkerId="b"): "_x4502 86405+0x1440",
            series("ray_rayloop_requests_total", **M): "0+60x6000",
        },
        "5000m",
        None,
    ),
    (
        "RayloopMonitorStandsStill",
        {
            series("ray_rayloop_drift_window_start_seconds", **V): "5+0x6000",
            series("ray_rayloop_requests_total", **M, variant="champion"): "7+0x6000",
        },
        "5000m",
        None,
    ),
    ("RayloopMonitorFails", {series("ray_rayloop_drift_failures_total", **M): "0 0 1 1+0x60"}, "20m", M),
    ("RayloopMonitorFails", {series("ray_rayloop_drift_failures_total", **M): "0 0 1 1+0x60"}, "40m", None),
    # The first failure, from which on there is a counter.
    ("RayloopMonitorFails", {series("ray_rayloop_drift_failures_total", **M): "_x5 1+0x60"}, "25m", M),
    ("RayloopMonitorFails", {series("ray_rayloop_drift_failures_total", **M): "_x5 1+0x60"}, "45m", None),
    ("RayloopRetrainFails", {series("ray_rayloop_retrains_failed_total", **M): "_x5 1+0x3000"}, "20m", M),
    ("RayloopRetrainFails", {series("ray_rayloop_retrains_failed_total", **M): "0 0 1 1+0x3000"}, "1500m", None),
    ("RayloopRetrainMissed", {series("ray_rayloop_retrains_missed_total", **M): "_x5 1+0x3000"}, "20m", M),
    ("RayloopRetrainMissed", {series("ray_rayloop_retrains_withheld_total", **M): "0 0 1 1+0x3000"}, "20m", M),
    ("RayloopProfilesRejected", {series("ray_rayloop_drift_rejected_profiles_total", **M): "0+2x60"}, "40m", M),
    (
        "RayloopServerErrors",
        {
            series("ray_rayloop_http_requests_total", **M, status="200"): "0+100x30",
            series("ray_rayloop_http_requests_total", **M, status="500"): "0+2x30",
        },
        "15m",
        M,
    ),
    (
        "RayloopServerErrors",
        {
            series("ray_rayloop_http_requests_total", **M, status="200"): "0+1000x30",
            series("ray_rayloop_http_requests_total", **M, status="500"): "0+2x30",
        },
        "15m",
        None,
    ),
    (
        "RayloopSlow",
        {
            series("ray_rayloop_latency_ms_bucket_total", **M, le="100"): "0+90x30",
            series("ray_rayloop_latency_ms_bucket_total", **M, le="1000"): "0+100x30",
            series("ray_rayloop_latency_ms_bucket_total", **M, le="+Inf"): "0+100x30",
        },
        "20m",
        M,
    ),
    ("RayloopQueue", {series("ray_rayloop_requests_under_way", **M, replica="a"): "200+0x30"}, "10m", M),
    (
        "RayloopQueue",
        {series("ray_rayloop_requests_under_way", **M, replica="a"): "200 9 200 9 200 9 200 9"},
        "7m",
        None,
    ),
    (
        "RayloopNoReplica",
        {
            series(
                "ray_serve_deployment_replica_healthy", application="m", deployment="ModelServer", replica="a"
            ): "1 0 0 0"
        },
        "3m",
        {"application": "m"},
    ),
    ("RayloopLogLosesRows", {series("ray_rayloop_log_dropped_rows_total", **M): "0 0 9"}, "2m", M),
    ("RayloopLogLosesRows", {series("ray_rayloop_log_dropped_rows_total", **M): "_x3 9+0x60"}, "10m", M),
    ("RayloopLogLosesRows", {series("ray_rayloop_log_dropped_rows_total", **M): "_x3 9+0x60"}, "30m", None),
    (
        "RayloopServerErrors",
        {
            series("ray_rayloop_http_requests_total", **M, method="gRPC", status="200"): "0+100x30",
            series("ray_rayloop_http_requests_total", **M, method="POST", status="408"): "0+1x30",
            series("ray_rayloop_http_requests_total", **M, method="POST", status="503"): "0+1x30",
        },
        "15m",
        M,
    ),
    ("RayloopCommitsFail", {series("ray_rayloop_log_commit_failures_total", **M): "_x3 1+1x60"}, "20m", M),
    # One failure, after which the next commit worked.
    ("RayloopCommitsFail", {series("ray_rayloop_log_commit_failures_total", **M): "_x3 1+0x60"}, "14m", None),
    ("RayloopRolloutPassFails", {series("ray_rayloop_rollout_pass_failures_total", **M): "_x3 1+9x60"}, "20m", M),
    ("RayloopRolloutPassFails", {series("ray_rayloop_rollout_pass_failures_total", **M): "_x3 1+0x60"}, "14m", None),
    ("RayloopRolloutInvalid", {series("ray_rayloop_rollout_invalid", **M, check="labels"): "_ 1 1"}, "1m", INVALID),
    ("RayloopRolloutInvalid", {series("ray_rayloop_rollout_invalid", **M, check="labels"): "1 _x10"}, "9m", None),
    ("RayloopLateHarm", {series("ray_rayloop_late_harm", **M, version="2"): "_ 1 1"}, "1m", M | {"version": "2"}),
    ("RayloopLateHarm", {series("ray_rayloop_late_harm", **M, version="2"): "1 _x10"}, "9m", None),
    ("RayloopModelSilent", {series("ray_rayloop_requests_under_way", **M, replica="a"): "0x20 stale"}, "25m", M),
    (
        # A replica was replaced.
        "RayloopModelSilent",
        {
            series("ray_rayloop_requests_under_way", **M, replica="a"): "0x20 stale",
            series("ray_rayloop_requests_under_way", **M, replica="b"): "_x19 0x20",
        },
        "25m",
        None,
    ),
    ("RayloopNoMetrics", {series("up", job="other"): "1x20"}, "10m", {}),
    ("RayloopNoMetrics", {series("up", job="ray", instance="a"): "0x20"}, "10m", {}),
    ("RayloopNoMetrics", {series("up", job="ray", instance="a"): "1x20"}, "10m", None),
    (
        "RayloopNodeSilent",
        {series("up", job="ray", instance="a"): "1x20", series("up", job="ray", instance="b"): "1 1 0x20"},
        "10m",
        {"instance": "b"},
    ),
    ("RayloopDoorDown", {series("up", job="door", **DOOR): "1 1 0x20"}, "10m", DOOR),
    ("RayloopDoorDown", {series("up", job="door", **DOOR): "1x5 stale"}, "18m", DOOR),
    ("RayloopDoorDown", {series("up", job="door", **DOOR): "1x20"}, "18m", None),
    ("RayloopDoorUnsupervised", {series(SUPERVISED, **DOOR): "0+60x5 300x20"}, "10m", DOOR),
    ("RayloopDoorUnsupervised", {series(SUPERVISED, **DOOR): "0+60x20"}, "10m", None),
    (
        "RayloopDoorUnsupervised",
        {series(SUPERVISED, instance="a"): "0+60x20", series(SUPERVISED, instance="b"): "0+60x5 300x20"},
        "10m",
        {"instance": "b"},
    ),
    ("RayloopDoorUnsupervised", {series(SUPERVISED, **DOOR): NO_VALUES}, "10m", None),
    ("RayloopCertificateExpires", {series(EXPIRY, **PEER): f"{13 * 86400}x20"}, "10m", PEER),
    ("RayloopCertificateExpires", {series(EXPIRY, **PEER): f"{15 * 86400}x20"}, "10m", None),
    ("RayloopCertificateExpires", {series(EXPIRY, **PEER): NO_VALUES}, "10m", None),
    ("RayloopNodeLost", {series("ray_node_failure_total", ip="h"): "_x5 1+0x30"}, "9m", {}),
    ("RayloopNodeLost", {series("ray_node_failure_total", ip="h"): "_x5 1+0x30"}, "25m", None),
    (
        "RayloopDiskFillsUp",
        {series("ray_node_disk_free", **NODE): "9x20", series("ray_node_disk_usage", **NODE): "91x20"},
        "10m",
        NODE,
    ),
    (
        "RayloopDiskFillsUp",
        {series("ray_node_disk_free", **NODE): "11x20", series("ray_node_disk_usage", **NODE): "89x20"},
        "10m",
        None,
    ),
    (
        "RayloopMemoryShort",
        {series("ray_node_mem_available", **NODE): "6x20", series("ray_node_mem_total", **NODE): "100x20"},
        "10m",
        NODE,
    ),
    (
        # One of two.
        "RayloopGpuLost",
        {
            series("ray_node_gpus_available", **NODE, GpuIndex="0"): "1x90",
            series("ray_node_gpus_available", **NODE, GpuIndex="1"): "1x70 stale",
            series("ray_node_mem_total", **NODE): "100x90",
        },
        "80m",
        NODE,
    ),
    (
        # The only one.
        "RayloopGpuLost",
        {
            series("ray_node_gpus_available", **NODE, GpuIndex="0"): "1x70 stale",
            series("ray_node_mem_total", **NODE): "100x90",
        },
        "80m",
        NODE,
    ),
    (
        # The whole node.
        "RayloopGpuLost",
        {
            series("ray_node_gpus_available", **NODE, GpuIndex="0"): "1x70 stale",
            series("ray_node_mem_total", **NODE): "100x70 stale",
        },
        "80m",
        None,
    ),
]


def test_every_rule_has_a_case_that_fires():
    assert {rule.name for rule in RULES} == {name for name, _, _, labels in CASES if labels is not None}


def test_runbook_is_a_heading_of_the_documentation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION_URL
    for rule in RULES:
        page, anchor = rule.runbook.split("/#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / f"{page}.md").read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(",", "").replace(" ", "-") for heading in headings}


@needs_promtool
@pytest.mark.long
def test_rules_are_well_formed_and_fire_exactly_when_they_must(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(render_rules())
    assert f"{len(RULES) + 2} rules found" in promtool("check", "rules", str(rules))
    severities = {rule.name: rule.severity for rule in RULES}
    # Every rule is evaluated in every interval, which takes long for the rules that wait for days.
    tests: dict[str, list[dict[str, Any]]] = {"1m": [], "10m": []}
    for name, input_series, at, labels in CASES:
        want = [] if labels is None else [{"exp_labels": {**labels, "severity": severities[name]}}]
        tests["10m" if int(at.removesuffix("m")) >= 300 else "1m"].append(
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": values} for s, values in input_series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": 1}] if want else [],
                    },
                    *(
                        [
                            {
                                "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
                                "eval_time": at,
                                "exp_samples": [
                                    {
                                        "labels": series(
                                            "ALERTS", alertname=name, alertstate="firing", **want[0]["exp_labels"]
                                        ),
                                        "value": 1,
                                    }
                                ],
                            }
                        ]
                        if want
                        else []
                    ),
                ],
            }
        )
    for interval, cases in tests.items():
        suite = tmp_path / f"suite_{interval}.yml"
        suite.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": interval, "tests": cases}))
        promtool("test", "rules", str(suite))


@needs_promtool
def test_cost_per_hour_is_recorded_by_model_and_by_tag(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(render_rules())
    input_series = {
        series("ray_rayloop_cost", model="a", tag="", value=""): "0+1x120",
        series("ray_rayloop_cost", model="a", tag="team", value="fares"): "0+1x120",
        series("ray_rayloop_cost", model="b", tag="team", value="fares"): "0+2x120",
    }
    queries = [
        ("rayloop:cost_per_hour:by_model", series("rayloop:cost_per_hour:by_model", model="a"), 60),
        ("rayloop:cost_per_hour:by_tag", series("rayloop:cost_per_hour:by_tag", tag="team", value="fares"), 180),
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": s, "values": values} for s, values in input_series.items()],
        "promql_expr_test": [
            {"expr": e, "eval_time": "90m", "exp_samples": [{"labels": labels, "value": value}]}
            for e, labels, value in queries
        ],
    }
    suite = tmp_path / "suite.yml"
    suite.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", str(suite))


@needs_promtool
def test_configuration_and_panel_expressions_parse(tmp_path: Path) -> None:
    rules, discovery = tmp_path / "rules.yml", tmp_path / "discovery.json"
    rules.write_text(render_rules())
    discovery.write_text("[]")
    config = tmp_path / "prometheus.yml"
    config.write_text(render_prometheus_config(str(discovery), str(rules), "127.0.0.1:9093", "127.0.0.1:9101"))
    promtool("check", "config", str(config))
    # A rule file is where promtool takes expressions from.
    targets = [target for panel in json.loads(render_dashboard())["panels"] for target in panel.get("targets", [])]
    panels = [{"record": f"panel:{i}", "expr": target["expr"]} for i, target in enumerate(targets)]
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": panels}]}))
    promtool("check", "rules", str(rules))


def test_dashboard_has_the_form_of_rays_own() -> None:
    import ray.dashboard.modules.metrics.grafana_dashboard_factory as factory

    base = Path(factory.__file__).parent / "dashboards" / "serve_grafana_dashboard_base.json"
    theirs = json.loads(base.read_text())
    ours: dict[str, Any] = json.loads(render_dashboard())
    assert {"panels", "templating", "schemaVersion", "rayMeta", "time", "tags"} <= set(ours) & set(theirs)
    assert ours["uid"]
    numbers = [panel["id"] for panel in ours["panels"]]
    assert len(numbers) == len(set(numbers))
    plots = [panel for panel in ours["panels"] if panel["type"] != "row"]
    assert all(panel["datasource"] == "${datasource}" and panel["targets"] for panel in plots)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in ours["panels"]]
    assert len(places) == len(set(places))
    variables = {v["name"] for v in ours["templating"]["list"]}
    assert variables == {"datasource", "SessionName", "Model"}


def test_rules_and_panels_use_only_exported_metrics() -> None:
    import re

    known = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name, _ in COUNTERS.values()}
    replica = {
        "requests_total",
        "http_requests_total",
        "errors_total",
        "latency_ms_bucket_total",
        "log_dropped_rows_total",
        "requests_under_way",
        "log_commit_failures_total",
        "rollout_pass_failures_total",
        "rollout_invalid",
        "late_harm",
    }
    known |= {f"ray_rayloop_{name}" for name in replica}
    used = re.findall(r"ray_rayloop_\w+", " ".join([render_dashboard(), *(rule.expr for rule in RULES)]))
    assert set(used) <= known


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def scraped(tmp_path: Path, free_port: int) -> Iterator[tuple[PrometheusExporter, str]]:
    """An exporter, and the address of a Prometheus that scrapes it under the names of Ray's agent."""
    exporter = PrometheusExporter()
    target = exporter.serve().removeprefix("http://").removesuffix("/metrics")
    rules, config = tmp_path / "rules.yml", tmp_path / "prometheus.yml"
    rules.write_text(render_rules())
    settings = json.loads(render_prometheus_config(str(tmp_path / "none.json"), str(rules)))
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    relabel_rule = {
        "source_labels": ["__name__"],
        "regex": "(rayloop_.*)",
        "target_label": "__name__",
        "replacement": "ray_$1",
    }
    settings["scrape_configs"] = [
        {"job_name": "monitor", "static_configs": [{"targets": [target]}], "metric_relabel_configs": [relabel_rule]}
    ]
    config.write_text(json.dumps(settings))
    address = f"127.0.0.1:{free_port}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        # A server that loads its storage still answers 503 to every query.
        ready = partial(httpx.get, f"http://{address}/-/ready", timeout=10)
        until(lambda: ready().is_success, "Prometheus is ready", LIMIT_S, (httpx.TransportError,))
        yield exporter, f"http://{address}"
    finally:
        server.terminate()
        server.wait(timeout=LIMIT_S)
        log.close()


@pytest.mark.long
@needs_prometheus
def test_prometheus_server_scrapes_and_fires(scraped: tuple[PrometheusExporter, str]) -> None:
    exporter, address = scraped

    def firing() -> list[dict[str, Any]]:
        alerts = httpx.get(f"{address}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        return [alert for alert in alerts if alert["state"] == "firing"]

    def value(query: str) -> list[Any]:
        samples = httpx.get(f"{address}/api/v1/query", params={"query": query}, timeout=10).json()["data"]["result"]
        return [one["value"][1] for one in samples]

    exporter.show(
        [
            MetricValue("rayloop_drift_ratio", ("m", "1", "price"), 0.5),
            MetricValue("rayloop_drift_drifting", ("m", "1"), 0),
        ]
    )
    until(lambda: value('ray_rayloop_drift_ratio{column="price"}') == ["0.5"], "it is scraped", LIMIT_S)
    assert firing() == []
    exporter.show([MetricValue("rayloop_drift_drifting", ("m", "1"), 1)])
    (alert,) = until(firing, "it fires", LIMIT_S)
    assert alert["labels"] == {"alertname": "RayloopDrift", "model": "m", "version": "1", "severity": "warning"}
    assert alert["annotations"]["runbook_url"] == f"{DOCUMENTATION_URL}/monitoring/#what-moved-and-what-to-do"
    exporter.show([MetricValue("rayloop_drift_drifting", ("m", "1"), 0)])
    until(lambda: not firing(), "it is quiet again", LIMIT_S)


def test_doors_metrics_are_scraped_only_where_there_is_a_door() -> None:
    jobs = {
        job["job_name"]: job for job in json.loads(render_prometheus_config("d", "r", door="h:1"))["scrape_configs"]
    }
    assert jobs.keys() == {"ray", "door", "door_haproxy"}
    assert (jobs["door"]["metrics_path"], jobs["door"]["static_configs"]) == ("/status", [{"targets": ["h:1"]}])
    assert [job["job_name"] for job in json.loads(render_prometheus_config("d", "r"))["scrape_configs"]] == ["ray"]
