"""Serve's configuration is written whole: each change is made to what the change before it left."""

import asyncio
import copy
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import SettingsError
from cluster.settings import Settings
from deployments.rollout import serve_config
from deployments.rollout.serve_config import DeploymentStatus, ServeConfigWriter

CHANGES = 20
WINDOW_S = 0.005
"""Between reading and writing, for another to come in between."""


class Serve:
    """Its REST API, as far as the writer uses it: a write replaces all applications."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self._pause = threading.Event()

    def get_serve_details(self) -> dict[str, Any]:
        apps = {n: {"status": "RUNNING", "deployed_app_config": copy.deepcopy(a)} for n, a in self.applications.items()}
        self._pause.wait(WINDOW_S)
        return {"applications": apps}

    def deploy_applications(self, config: dict[str, Any]) -> None:
        self.applications = {app["name"]: app for app in config["applications"]}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    made = Serve()
    monkeypatch.setattr(ServeConfigWriter, "_client", lambda self: made)
    return made


async def changed(serve: Serve, settings: Settings) -> None:
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    await writer.__init__(settings)

    def adding(name: str) -> Any:
        return lambda apps: apps.update({name: {"name": name}})

    await asyncio.gather(*(writer._write(adding(f"model-{i}")) for i in range(CHANGES)))
    await asyncio.gather(*(writer._write(lambda apps, i=i: apps.pop(f"model-{i}")) for i in range(0, CHANGES, 2)))


def test_no_change_is_lost_when_many_are_made_at_once(serve: Serve, settings: Settings) -> None:
    serve.applications = {"foreign": {"name": "foreign", "import_path": "somebody:app"}}
    asyncio.run(changed(serve, settings))
    left = {f"model-{i}" for i in range(1, CHANGES, 2)}
    assert set(serve.applications) == left | {"foreign"}
    assert serve.applications["foreign"]["import_path"] == "somebody:app"


@pytest.mark.parametrize(
    ("status", "states", "expected"),
    [
        ("RUNNING", ["RUNNING", "RUNNING"], DeploymentStatus(running=2, desired=2)),
        ("RUNNING", ["RUNNING", "STARTING"], DeploymentStatus(running=1, desired=2, problem="RUNNING: out of memory")),
        ("DEPLOY_FAILED", [], DeploymentStatus(running=0, desired=2, problem="DEPLOY_FAILED: out of memory")),
    ],
)
def test_what_stands_behind_a_model_is_what_serve_says(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, status: str, states: list[str], expected: DeploymentStatus
) -> None:
    replicas = [{"replica_id": str(i), "state": state} for i, state in enumerate(states)]
    declared = {"name": "trips", "deployments": [{"name": "ModelServer", "num_replicas": 2}]}
    found = {"ModelServer": {"message": "out of memory", "replicas": replicas}} if states else {}
    app = {"status": status, "message": "" if states else "out of memory", "deployed_app_config": declared}
    details = {"applications": {"trips": app | {"deployments": found}}}
    monkeypatch.setattr(serve_config, "_client", lambda settings: SimpleNamespace(get_serve_details=lambda: details))
    assert serve_config.deployment_statuses(settings, ["trips", "others"]) == {"trips": expected}


def test_access_that_would_not_count_is_said(settings: Settings) -> None:
    served = asyncio.run(writer_of(settings).served_settings())
    serve_config.check_access(settings, served)
    guarded = settings.model_copy(update={"access": True})
    with pytest.raises(SettingsError, match=r"RAYLOOP_ACCESS is not what the cluster was started with.*rayloop down"):
        serve_config.check_access(guarded, served)


def writer_of(settings: Settings) -> Any:
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    asyncio.run(writer.__init__(settings))
    return writer
