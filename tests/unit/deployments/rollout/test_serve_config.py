"""Serve's configuration is written whole: each change builds on the one before."""

import asyncio
import copy
import threading
from typing import Any

import pytest

from cluster.settings import Settings
from deployments.rollout import serve_details
from deployments.rollout.serve_config import ServeConfigWriter
from deployments.serve_schema import model_app_name

MODELS = 20
WINDOW_S = 0.005
"""Seconds between reading and writing, in which another change could interfere."""


class Serve:
    """A fake of Serve's REST API: a write replaces all applications."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}
        self._pause = threading.Event()

    def get_serve_details(self) -> dict[str, Any]:
        apps = {n: {"status": "RUNNING", "deployed_app_config": copy.deepcopy(a)} for n, a in self.applications.items()}
        self._pause.wait(WINDOW_S)
        return {"applications": apps}

    def deploy_applications(self, config: dict[str, Any]) -> None:
        self.config = config
        self.applications = {app["name"]: app for app in config["applications"]}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    serve = Serve()
    monkeypatch.setattr(serve_details, "connect_serve_api", lambda settings: serve)
    return serve


async def remove_concurrently(settings: Settings) -> None:
    writer: Any = ServeConfigWriter.__new__(ServeConfigWriter)
    await writer.__init__(settings)

    await asyncio.gather(*(writer.remove(f"model-{i}") for i in range(0, MODELS, 2)))


def test_remove_of_models_concurrently_keeps_the_others(serve: Serve, settings: Settings) -> None:
    declared = {model_app_name(f"model-{i}"): {"name": model_app_name(f"model-{i}")} for i in range(MODELS)}
    serve.applications = declared | {"foreign": {"name": "foreign", "import_path": "other:app"}}
    asyncio.run(remove_concurrently(settings))
    remaining = {model_app_name(f"model-{i}") for i in range(1, MODELS, 2)}
    assert set(serve.applications) == remaining | {"foreign"}
    assert serve.applications["foreign"]["import_path"] == "other:app"


@pytest.mark.parametrize(("host", "location"), [("127.0.0.1", "HeadOnly"), ("0.0.0.0", "EveryNode")])
def test_first_write_of_a_host_starts_proxies_where_callers_reach_them(
    serve: Serve, settings: Settings, host: str, location: str
) -> None:
    asyncio.run(remove_concurrently(settings.model_copy(update={"serve_host": host})))
    assert serve.config["http_options"]["host"] == host
    assert serve.config["proxy_location"] == location
