"""Serve's configuration is written whole: each change builds on the one before."""

import asyncio
import copy
import threading
from typing import Any

import pytest

from cluster.settings import Settings
from deployments.rollout import serve_details
from deployments.rollout.serve_config import ServeConfigWriter

CHANGES = 20
WINDOW_S = 0.005
"""Seconds between reading and writing, in which another change could interfere."""


class Serve:
    """A fake of Serve's REST API: a write replaces all applications."""

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
    serve = Serve()
    monkeypatch.setattr(serve_details, "connect", lambda settings: serve)
    return serve


async def change_concurrently(serve: Serve, settings: Settings) -> None:
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    await writer.__init__(settings)

    def adding(name: str) -> Any:
        return lambda apps: apps.update({name: {"name": name}})

    await asyncio.gather(*(writer._write(adding(f"model-{i}")) for i in range(CHANGES)))
    await asyncio.gather(*(writer._write(lambda apps, i=i: apps.pop(f"model-{i}")) for i in range(0, CHANGES, 2)))


def test_write_of_concurrent_changes_keeps_all(serve: Serve, settings: Settings) -> None:
    serve.applications = {"foreign": {"name": "foreign", "import_path": "other:app"}}
    asyncio.run(change_concurrently(serve, settings))
    remaining = {f"model-{i}" for i in range(1, CHANGES, 2)}
    assert set(serve.applications) == remaining | {"foreign"}
    assert serve.applications["foreign"]["import_path"] == "other:app"
