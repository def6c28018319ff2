"""The whole loop in short form, on a project outside the repository: digits, ten classes, a user's own module."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from sklearn.datasets import load_digits

from cluster import local_cluster
from cluster.errors import DataError
from cluster.names import ACTOR_NAMESPACE, CHAMPION, labels_table, monitor_actor, predictions_table, rollout_actor
from cluster.registry import GATE_TAG, Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.serve_config import connect_config_writer
from monitoring.export.alert_rules import RULES
from monitoring.export.grafana import FILE, render_dashboard
from rayloop.cli import project_commands
from rayloop.cli.metrics_config import write_metrics_config
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import load_project, locate_project
from rayloop.stages.deploy import predecessor
from tests.factories.until import until

FACTORIES = Path(__file__).parents[2] / "factories" / "rayloop"
LIMIT_S = 900


def rayloop(settings: Settings, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, in a folder that is not the repository."""
    command = [sys.executable, "-m", "rayloop", *words]
    environment = {**os.environ, **settings.environment()}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=folder, timeout=LIMIT_S, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "digits.py").write_text((FACTORIES / "digits.py").read_text())
    return path


@pytest.fixture(scope="module")
def simulated(cluster: Settings, folder: Path) -> str:
    process = rayloop(cluster, folder, "run", "digits.py", "--simulate")
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-2000:]
    return process.stdout


@pytest.mark.cluster
def test_simulation_phases_end_as_expected(simulated: str) -> None:
    assert "0 false alarms on traffic that resembles the training data" in simulated
    assert "promote: " in simulated
    assert "abort: " in simulated
    assert "ALARM" in simulated
    assert "the monitor submitted job retrain-digits-" in simulated
    assert " failed" in simulated
    assert all(" 0 failed" in line for line in simulated.splitlines() if "requests," in line)


@pytest.mark.cluster
def test_retrained_version_is_champion_with_its_lineage(simulated: str, cluster: Settings) -> None:
    registry = Registry(cluster)
    champion = registry.version_by_alias("digits", CHAMPION)
    assert champion is not None
    assert champion.version == registry.versions("digits")[-1].version
    assert {"rayloop.snapshot", "rayloop.features", "rayloop.code", GATE_TAG} <= set(champion.tags)
    assert champion.tags["rayloop.precision"] == "float32"
    assert champion.tags["rayloop.runtime"].startswith("ONNX Runtime ")
    bundle = registry.fetch(champion)
    assert sorted(p.name for p in bundle.iterdir()) == [
        "explainer.safetensors",
        "manifest.json",
        "model.onnx",
        "portable.onnx",
        "profile.json",
        "weights.safetensors",
    ]


@pytest.mark.cluster
def test_journal_and_log_record_the_simulation(simulated: str, cluster: Settings) -> None:
    tables = Tables(cluster)
    ends = [d.action for d in RolloutJournal("digits", tables).decisions() if d.action in ("promote", "abort")]
    assert ends == ["promote", "abort", "promote"]
    answered = tables.read(predictions_table("digits"), columns=["id"])["id"].to_pylist()
    assert len(answered) == len(set(answered))
    assert set(tables.read(labels_table("digits"), columns=["id"])["id"].to_pylist()) <= set(answered)


@pytest.mark.cluster
def test_response_can_be_traced(simulated: str, cluster: Settings, folder: Path) -> None:
    image = load_digits().data[0].tolist()
    inputs = [
        {"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": image},
        {"name": "taken_at", "shape": [1], "datatype": "BYTES", "data": ["2024-02-01T00:00:00Z"]},
    ]
    body = {"id": "look-me-up", "inputs": inputs}
    answer = httpx.post(f"{cluster.endpoint}/v2/models/digits/infer", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
    assert outputs["label"] == ["0"]
    status = rayloop(cluster, folder, "status")
    assert f"champion v{answer.json()['model_version']}" in status.stdout
    traced = _traced(cluster, folder)
    assert f"digits v{answer.json()['model_version']}" in traced
    assert "snapshot  digits.frame_" in traced


def _traced(cluster: Settings, folder: Path) -> str:
    """The log is committed every few seconds; asking again is waiting for a condition."""
    for _ in range(10):
        process = rayloop(cluster, folder, "trace", "digits", "look-me-up")
        if process.returncode == 0:
            return process.stdout
        assert "[data.request_not_logged]" in process.stderr
    raise AssertionError(process.stderr)


@pytest.mark.cluster
def test_report_has_all_sections(simulated: str, cluster: Settings) -> None:
    page = (cluster.home / "projects" / "digits" / "report.html").read_text()
    for part in ("Quality over time", "Calibration", "Drift", "Rollouts"):
        assert part in page
    assert "<script src" not in page


@pytest.mark.cluster
def test_files_of_the_project_are_closed_to_other_users(simulated: str, cluster: Settings) -> None:
    paths = [cluster.home, *(cluster.home / "projects" / "digits").rglob("*")]
    assert (cluster.home / "projects" / "digits" / "report.html") in paths
    assert {str(path): oct(path.stat().st_mode) for path in paths if path.stat().st_mode & 0o077} == {}


@pytest.mark.cluster
def test_log_analysis_and_cost_are_in_the_status(simulated: str, cluster: Settings) -> None:
    import ray

    monitor = ray.get_actor(monitor_actor("digits"), namespace=ACTOR_NAMESPACE)
    status = ray.get(monitor.status.remote())
    looks = ray.get(monitor.analyses.remote())
    assert 0 < status["counters"]["looks"] <= len(looks.analyses)
    # Images are neither numbers nor categories: a domain classifier has no features, and reports it.
    assert any(str(DataError("data.no_comparable_column")) in fault for fault in looks.analyses[-1].faults)
    labeled = [q for q in looks.quality if q.labeled.n]
    assert any(q.estimated.get("CBPE") and q.observed for q in labeled)
    assert status["used"]["requests"] > 0
    assert status["cost"] > 0


@pytest.mark.cluster
def test_second_simulation_without_fresh_is_refused(simulated: str, cluster: Settings, folder: Path) -> None:
    process = rayloop(cluster, folder, "run", "digits.py", "--simulate")
    assert process.returncode == 2
    assert "[project.has_versions]" in process.stdout


@pytest.mark.cluster
def test_predict_of_a_file_scores_it(simulated: str, cluster: Settings, folder: Path) -> None:
    import pyarrow.parquet as pq

    rows = Tables(cluster).read("digits.scans").slice(0, 50)
    pq.write_table(rows, folder / "in.parquet")
    process = rayloop(cluster, folder, "predict", "digits.py", "in.parquet", "out")
    assert process.returncode == 0, process.stdout
    scored = pq.read_table(folder / "out")
    assert scored.num_rows == 50
    right = [p == d for p, d in zip(scored["predicted"].to_pylist(), scored["digit"].to_pylist(), strict=True)]
    assert sum(right) > 40


@pytest.mark.cluster
@pytest.mark.slow
def test_predict_of_a_catalog_table_scores_it(simulated: str, cluster: Settings, folder: Path) -> None:
    import pyarrow.parquet as pq

    process = rayloop(
        cluster, folder, "predict", "digits.py", "digits.scans", "scans", "--keep", "scan", "--keep", "digit"
    )
    assert process.returncode == 0, process.stdout
    scored = pq.read_table(folder / "scans")
    assert scored.column_names == ["scan", "digit", "scores", "predicted"]
    assert sorted(scored["scan"].to_pylist()) == sorted(Tables(cluster).read("digits.scans")["scan"].to_pylist())
    assert f"{scored.num_rows:,} rows in " in process.stdout


def exported(ports: set[int]) -> set[str]:
    """Names of rayloop's metrics that Ray's agents export now."""
    text = "".join(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text for port in ports)
    return set(re.findall(r"ray_rayloop_\w+", text))


@pytest.mark.cluster
def test_metrics_of_alerts_and_dashboards_are_exported_by_ray(simulated: str, cluster: Settings) -> None:
    import ray

    ports = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
    required = set(re.findall(r"ray_rayloop_\w+", " ".join([render_dashboard(), *(rule.expr for rule in RULES)])))
    # Nothing of this happened here: a counter that was never raised is not exported.
    silent = {
        "ray_rayloop_errors_total",
        "ray_rayloop_log_dropped_rows_total",
        "ray_rayloop_log_commit_failures_total",
        "ray_rayloop_rollout_pass_failures_total",
        "ray_rayloop_rollout_invalid",
        "ray_rayloop_late_harm",
        "ray_rayloop_drift_failures_total",
        "ray_rayloop_drift_rejected_profiles_total",
        "ray_rayloop_segment_ratio",
        "ray_rayloop_look_auc",
        *(f"ray_rayloop_disparity{figure}" for figure in ("", "_low", "_allowed", "_exceeded")),
        *(f"ray_rayloop_retrains_{event}_total" for event in ("missed", "withheld", "failed")),
    }
    # Some of them were set minutes ago, and Ray's agent drops idle gauges.
    assert required - silent <= exported(ports)
    discovery = json.loads(local_cluster.discovery_file(cluster).read_text())
    assert {target.rpartition(":")[2] for one in discovery for target in one["targets"]} >= {str(p) for p in ports}


@pytest.mark.cluster
def test_dashboard_is_in_the_folder_that_ray_provisions(simulated: str, cluster: Settings) -> None:
    folder = write_metrics_config(cluster)
    provisioned = local_cluster.metrics_folder(cluster) / "grafana" / "dashboards" / FILE
    assert provisioned.read_text() == (folder / FILE).read_text()
    config = json.loads((folder / "prometheus.yml").read_text())
    assert Path(config["scrape_configs"][0]["file_sd_configs"][0]["files"][0]).exists()


def settled(controller: Any) -> RolloutStatus | None:
    """The controller's status once Serve matches its journal."""
    import ray

    status: RolloutStatus = ray.get(controller.status.remote(), timeout=30)
    return status if status.applied else None


@pytest.mark.cluster
def test_rollback_restores_the_previous_champion(
    simulated: str, cluster: Settings, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    registry = Registry(cluster)
    champion = registry.version_by_alias("digits", CHAMPION)
    before = predecessor(RolloutJournal("digits", Tables(cluster)).decisions(), champion.version)
    process = rayloop(cluster, folder, "rollback", "digits.py", "--version", champion.version, "--reason", "a test")
    assert process.returncode == 0, process.stdout
    assert f"digits v{before} is champion again: a test" in process.stdout
    assert registry.version_by_alias("digits", CHAMPION).version == before
    assert registry.version("digits", champion.version).tags["rayloop.rolled_back_because"] == "a test"
    monitor = ray.get_actor(monitor_actor("digits"), namespace=ACTOR_NAMESPACE)
    assert ray.get(monitor.status.remote())["version"] == before
    location = locate_project(str(folder / "digits.py"))
    project_commands.rollback(
        ProjectContext(load_project(location), location, cluster, ProgressConsole()), champion.version, "asked again"
    )
    assert "nothing to roll back" in capsys.readouterr().out
    # A restarted controller resumes from its journal.
    controller = ray.get_actor(rollout_actor("digits"), namespace=ACTOR_NAMESPACE)
    ray.kill(controller, no_restart=False)
    status = until(
        lambda: settled(controller),
        "the controller has applied its journal",
        not_yet=(ray.exceptions.RayActorError,),
    )
    assert (status.state.status, status.decisions[-1].action) == ("rolled back", "rollback")
    assert registry.version_by_alias("digits", CHAMPION).version == before
    assert ray.get(connect_config_writer(cluster).current_config.remote("digits")).champion.version == before
