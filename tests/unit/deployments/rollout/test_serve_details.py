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
