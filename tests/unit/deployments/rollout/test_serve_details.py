"""Health of deployments, as Serve's REST API reports it."""

from types import SimpleNamespace

import pytest

from cluster.settings import Settings
from deployments.rollout import serve_details
from deployments.rollout.serve_details import DeploymentStatus


@pytest.mark.parametrize(
    ("status", "states", "expected"),
    [
        ("RUNNING", ["RUNNING", "RUNNING"], DeploymentStatus(running=2, desired=2)),
        ("RUNNING", ["RUNNING", "STARTING"], DeploymentStatus(running=1, desired=2, problem="RUNNING: out of memory")),
        ("DEPLOY_FAILED", [], DeploymentStatus(running=0, desired=2, problem="DEPLOY_FAILED: out of memory")),
    ],
)
def test_deployment_statuses_count_replicas_and_report_problems(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, status: str, states: list[str], expected: DeploymentStatus
) -> None:
    replicas = [{"replica_id": str(i), "state": state} for i, state in enumerate(states)]
    declared = {"name": "trips", "deployments": [{"name": "ModelServer", "num_replicas": 2}]}
    deployments = {"ModelServer": {"message": "out of memory", "replicas": replicas}} if states else {}
    app = {"status": status, "message": "" if states else "out of memory", "deployed_app_config": declared}
    details = {"applications": {"trips": app | {"deployments": deployments}}}
    monkeypatch.setattr(
        serve_details, "connect_serve_api", lambda settings: SimpleNamespace(get_serve_details=lambda: details)
    )
    assert serve_details.deployment_statuses(settings, ["trips", "others"]) == {"trips": expected}


@pytest.mark.parametrize(
    ("status", "problem"),
    [("RUNNING", ""), ("DELETING", ""), ("UNHEALTHY", "trips.python.3 UNHEALTHY: TimeoutError: a call never ends")],
)
def test_deployment_status_reports_a_python_model_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, status: str, problem: str
) -> None:
    replicas = {"ModelServer": {"message": "", "replicas": [{"replica_id": "0", "state": "RUNNING"}]}}
    declared = {"name": "trips", "deployments": [{"name": "ModelServer", "num_replicas": 1}]}
    python = {"deployed_app_config": {"name": "trips.python.3"}, "message": "TimeoutError: a call never ends"}
    apps = {
        "trips": {"status": "RUNNING", "deployed_app_config": declared, "deployments": replicas},
        "trips.python.3": python | {"status": status},
    }
    monkeypatch.setattr(
        serve_details,
        "connect_serve_api",
        lambda settings: SimpleNamespace(get_serve_details=lambda: {"applications": apps}),
    )
    assert serve_details.deployment_statuses(settings, ["trips"])["trips"].problem == problem
