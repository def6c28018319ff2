"""A Python class is served by one command in a process of its own; a second version of it is a canary."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import GateReport, ModelVersion
from deployments.serve_schema import model_app_name, python_app_name
from tests.factories.deployments.request_load import Load, infer_body, sigmoid
from tests.factories.rayloop.command import rayloop
from tests.factories.rayloop.python_trips import NAME, write_project
from tests.factories.until import until

pytestmark = pytest.mark.cluster

DISTANCES = [-1.0, 0.0, 2.0]


def processes(settings: Settings, app: str) -> set[int]:
    """Processes of the running replicas of an application."""
    apps: dict[str, Any] = ServeSubmissionClient(settings.dashboard).get_serve_details()["applications"]
    deployments = apps.get(app, {"deployments": {}})["deployments"].values()
    return {each["pid"] for one in deployments for each in one["replicas"] if each["state"] == "RUNNING"}


def scores(url: str, version: ModelVersion) -> np.ndarray:
    answer = httpx.post(f"{url}/versions/{version.version}/infer", json=infer_body(DISTANCES), timeout=30)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"][0]["data"])


def test_python_class_is_served_and_its_second_version_dies_without_a_failed_answer(
    cluster: Settings, tmp_path: Path
) -> None:
    marks, registry, url = tmp_path / "marks", Registry(cluster), f"{cluster.endpoint}/v2/models/{NAME}"
    write_project(tmp_path / "trips", marks, slope=1.0)
    rayloop(cluster, tmp_path / "trips", "run", "project.py")
    champion = registry.version_by_alias(NAME, CHAMPION)
    assert champion is not None
    report = GateReport.from_stored(champion.tags["rayloop.gate"])
    assert next(check for check in report.checks if check.name == "batch parity").value < 1e-6
    assert scores(url, champion) == pytest.approx(sigmoid(np.array(DISTANCES)), abs=1e-5)
    # The model's process is not the replica's, and has the declared variable: it is where it left its mark.
    (own,) = processes(cluster, python_app_name(champion))
    assert (marks / str(own)).exists()
    assert not any((marks / str(pid)).exists() for pid in processes(cluster, model_app_name(NAME)))
    refused = httpx.post(f"{url}/explain", json=infer_body([1.0]), timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (409, "request.not_explainable")

    (tmp_path / "trips" / "slope.txt").write_text("2.0")
    lines = rayloop(cluster, tmp_path / "trips", "run", "project.py")
    challenger = registry.versions(NAME)[-1]
    assert f"rollout of {challenger} against v{champion.version} started" in lines
    assert scores(url, challenger) == pytest.approx(sigmoid(2.0 * np.array(DISTANCES)), abs=1e-5)
    with Load(url, 2.0, rate=40.0, name="killed") as load:
        until(lambda: load.outcomes[200, "challenger"] > 20, "the challenger answers")
        (first,) = processes(cluster, python_app_name(challenger))
        os.kill(first, signal.SIGKILL)
        until(lambda: processes(cluster, python_app_name(challenger)) - {first}, "another process runs")
        answered = load.outcomes[200, "challenger"]
        until(lambda: load.outcomes[200, "challenger"] > answered + 20, "the challenger answers again")
    assert load.failed == []

    def errors() -> set[str]:
        rows = Tables(cluster).read(f"{NAME}.predictions", columns=["id", "error"]).to_pylist()
        return {row["error"] for row in rows if row["error"] and row["id"].startswith("killed-")}

    until(errors, "the log says that the challenger failed")

    rayloop(cluster, tmp_path / "trips", "abort", NAME, "--reason", "test")
    until(lambda: not processes(cluster, python_app_name(challenger)), "its process is gone")
    assert processes(cluster, python_app_name(champion)) == {own}
