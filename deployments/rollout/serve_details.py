"""Serve's REST API: the applications that it was given, and what it reports about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.errors import ClusterUnavailable, RayloopError
from cluster.jobs import connect_dashboard
from cluster.limits import STORE_S, in_thread
from cluster.settings import Settings
from cluster.values import Frozen
from deployments.rollout.applications import Applications
from deployments.serve_schema import model_app_name, python_prefix

MODEL_DEPLOYMENT = "ModelServer"
"""Name of the deployment in a model's application."""
_LEAVING = ("DELETING", "NOT_STARTED")
_REQUEST_S = {"GET": 10.0, "PUT": 60.0}
"""Time limits of requests; the first PUT starts Serve."""


class DeploymentStatus(Frozen):
    """Health of a model's application."""

    running: int
    """Replicas that run."""
    desired: int
    """Replicas that should run."""
    problem: str = ""
    """Serve's message if fewer run, or a Python model of it does not; empty otherwise."""


class _ServeApi(ServeSubmissionClient):
    """Ray's client with a time limit."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=_REQUEST_S[method], **options)


def connect_serve_api(settings: Settings) -> ServeSubmissionClient:
    """Connect to Serve's REST API.

    Raises:
        ClusterUnavailable: No Ray dashboard answers.
    """
    return connect_dashboard(_ServeApi, settings)


def fetch_serve_details(settings: Settings) -> dict[str, Any]:
    """Ask Serve for its applications.

    Returns:
        The answer of ``GET /api/serve/applications/``.

    Raises:
        ClusterUnavailable: Serve does not answer.
    """
    try:
        return connect_serve_api(settings).get_serve_details()
    except (OSError, RuntimeError) as error:
        raise ClusterUnavailable("cluster.no_answer", address=settings.dashboard) from error


async def read_serve_details(settings: Settings) -> dict[str, Any]:
    """As ``fetch_serve_details``, in a thread, within the time limit of a store. Raises ClusterUnavailable."""
    return await in_thread(STORE_S, "Serve's REST API", fetch_serve_details, settings)


def declared_applications(details: dict[str, Any]) -> Applications:
    """Return the applications as they were declared, without those that Serve is removing."""
    return {
        name: app["deployed_app_config"]
        for name, app in details["applications"].items()
        if app.get("deployed_app_config") and app["status"] not in _LEAVING
    }


def running_replicas(details: dict[str, Any], app: str) -> list[str]:
    """Return the ids of the running replicas of a model's application."""
    replicas = details["applications"][app]["deployments"][MODEL_DEPLOYMENT]["replicas"]
    return [replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING"]


def is_running(details: dict[str, Any], app: str) -> bool:
    """Whether an application runs with its newest configuration.

    Raises:
        RayloopError: Its deployment has failed.
    """
    report = details["applications"].get(app, {})
    if report.get("status") == "DEPLOY_FAILED":
        message = failure_message(report)
        raise RayloopError("rayloop.deployment_failed", app=app, message=message)
    if report.get("status") != "RUNNING":
        return False
    config = report["deployed_app_config"]["deployments"][0].get("user_config")
    deployments = report["deployments"].values()
    return all(d["status"] == "HEALTHY" and d["deployment_config"].get("user_config") == config for d in deployments)


def failure_message(app: dict[str, Any]) -> str:
    """Return Serve's message about an application in one line: of a traceback, the last line that names an error."""
    texts: list[str] = [app.get("message", "")] + [d.get("message", "") for d in app.get("deployments", {}).values()]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "Exception" in line]
    return (errors or lines or ["Serve reports no reason"])[-1][:400]


def deployment_statuses(settings: Settings, models: Sequence[str]) -> dict[str, DeploymentStatus]:
    """Return the health of each model's application, and of its Python models; models not deployed are left out."""
    details = fetch_serve_details(settings)
    declared = declared_applications(details)
    return {
        model: _deployment_status(details, app, declared[app], _failing_python_model(details, model))
        for model in models
        if (app := model_app_name(model)) in declared
    }


def _failing_python_model(details: dict[str, Any], model: str) -> str:
    """What is wrong with one of the model's Python models; empty if all run."""
    for name in declared_applications(details):
        report = details["applications"][name]
        if name.startswith(python_prefix(model)) and report["status"] != "RUNNING":
            return f"{name} {report['status']}: {failure_message(report)}"
    return ""


def _deployment_status(details: dict[str, Any], app: str, declared: dict[str, Any], failing: str) -> DeploymentStatus:
    report, desired = details["applications"][app], int(declared["deployments"][0]["num_replicas"])
    has_replicas = MODEL_DEPLOYMENT in report["deployments"]
    running = len(running_replicas(details, app)) if has_replicas else 0
    is_healthy = running >= desired and report["status"] == "RUNNING"
    problem = failing if is_healthy else f"{report['status']}: {failure_message(report)}"
    return DeploymentStatus(running=running, desired=desired, problem=problem)
