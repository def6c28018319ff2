"""What other packages use of Serve's configuration: its writer, and the state of deployments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.actor import ActorHandle

from cluster.actors import get_or_create
from cluster.settings import Settings
from cluster.values import Frozen
from deployments.rollout import serve_details
from deployments.rollout.serve_config import ServeConfigWriter
from deployments.serve_schema import model_app_name

ACTOR = "serve-config"
"""Name of the writer's actor."""


class DeploymentStatus(Frozen):
    """Health of a model's application."""

    running: int
    """Replicas that run."""
    desired: int
    """Replicas that should run."""
    problem: str = ""
    """Serve's message if fewer run; empty otherwise."""


def connect(settings: Settings) -> ActorHandle:
    """Connect to the configuration writer of this cluster, started when absent."""
    return get_or_create(ACTOR, ServeConfigWriter, settings, max_task_retries=2)


def deployment_statuses(settings: Settings, models: Sequence[str]) -> dict[str, DeploymentStatus]:
    """Return the health of each model's application; models that are not deployed are left out."""
    details = serve_details.connect(settings).get_serve_details()
    declared = serve_details.declared_applications(details)
    return {
        model: _deployment_status(details, app, declared[app])
        for model in models
        if (app := model_app_name(model)) in declared
    }


def _deployment_status(details: dict[str, Any], app: str, declared: dict[str, Any]) -> DeploymentStatus:
    report, desired = details["applications"][app], int(declared["deployments"][0]["num_replicas"])
    has_replicas = serve_details.MODEL_DEPLOYMENT in report["deployments"]
    running = len(serve_details.running_replicas(details, app)) if has_replicas else 0
    is_healthy = running >= desired and report["status"] == "RUNNING"
    problem = "" if is_healthy else f"{report['status']}: {serve_details.failure_message(report)}"
    return DeploymentStatus(running=running, desired=desired, problem=problem)
