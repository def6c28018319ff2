"""Several models at once: a change of one model leaves the applications of the others unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
import ray
from ray.actor import ActorHandle
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.rollout import serve_config
from deployments.rollout.serve_config import connect_config_writer
from tests.factories.deployments.bundles import Slope, register, write_bundle
from tests.factories.deployments.request_load import Load, infer_body, sigmoid
from tests.factories.until import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FOREIGN = "foreign"
OPTIONS = serve_config.ServingOptions(profile_window_s=86400.0, cpus=0.1)


class Model(NamedTuple):
    """Two versions of a model, and their slopes, which no other version has."""

    name: str
    versions: tuple[ModelVersion, ModelVersion]
    slopes: tuple[float, float]


@pytest.fixture(scope="module")
def models(cluster: Settings, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Model]]:
    folder = tmp_path_factory.mktemp("writers")
    served_models = [
        _model(registry, folder, name, first) for name, first in (("red", 0.5), ("green", 1.5), ("blue", 2.5))
    ]
    yield served_models
    at_once([("remove", (model.name,)) for model in served_models], cluster)


def _model(registry: Registry, folder: Path, name: str, first: float) -> Model:
    slopes = (first, first + 0.5)
    first_version, second = (register(registry, name, write_bundle(folder / f"{name}{s}", Slope(s))) for s in slopes)
    return Model(name, (first_version, second), slopes)


@pytest.fixture
def foreign(cluster: Settings) -> Iterator[str]:
    """An application that no writer of rayloop knows of."""
    client = ServeSubmissionClient(cluster.dashboard)
    _put(
        client,
        [
            *_declared(client),
            {"name": FOREIGN, "route_prefix": "/other", "import_path": "deployments.ingress.root_app:build"},
        ],
    )
    until(lambda: _state(client, FOREIGN) == "RUNNING", "the foreign application runs")
    yield FOREIGN
    _put(client, [app for app in _declared(client) if app["name"] != FOREIGN])


def _declared(client: ServeSubmissionClient) -> list[dict]:
    apps = client.get_serve_details()["applications"].values()
    return [app["deployed_app_config"] for app in apps if app["status"] != "DELETING"]


def _put(client: ServeSubmissionClient, apps: list[dict]) -> None:
    details = client.get_serve_details()
    settings = {key: details[key] for key in ("proxy_location", "grpc_options")}
    http = {key: details["http_options"][key] for key in ("host", "port", "request_timeout_s")}
    client.deploy_applications(settings | {"http_options": http, "applications": apps})


def _state(client: ServeSubmissionClient, name: str) -> str:
    return client.get_serve_details()["applications"].get(name, {}).get("status", "absent")


def at_once(calls: Sequence[tuple[str, tuple]], settings: Settings) -> None:
    """Give orders to the writer from as many callers, none of which waits for another."""

    def call(order: str, args: tuple) -> None:
        writer: ActorHandle = connect_config_writer(settings)
        ray.get(getattr(writer, order).remote(*args))

    with ThreadPoolExecutor(len(calls)) as callers:
        for future in [callers.submit(call, *one) for one in calls]:
            future.result()


def score(settings: Settings, model: str) -> float:
    response = httpx.post(f"{settings.endpoint}/v2/models/{model}/infer", json=infer_body([0.5]), timeout=30.0)
    assert response.status_code == 200, response.text
    return response.json()["outputs"][0]["data"][0]


def test_concurrent_changes_of_several_models_do_not_interfere(
    cluster: Settings, served: ModelVersion, foreign: str, models: list[Model]
) -> None:
    client = ServeSubmissionClient(cluster.dashboard)
    with Load(f"{cluster.endpoint}/v2/models/{served.model}", 1.0, rate=50.0, name="writers") as load:
        at_once([("deploy", (model.versions[0], OPTIONS)) for model in models], cluster)
        for model in models:
            assert score(cluster, model.name) == pytest.approx(sigmoid(np.array(model.slopes[0] * 0.5)), abs=1e-4)
        red, green, blue = models
        changes = [
            ("set_champion", (red.versions[1],)),
            ("remove", (green.name,)),
            ("deploy", (blue.versions[1], OPTIONS)),
        ]
        at_once(changes, cluster)
    for model in (red, blue):
        assert score(cluster, model.name) == pytest.approx(sigmoid(np.array(model.slopes[1] * 0.5)), abs=1e-4)
    assert [_state(client, name) for name in (green.name, foreign, served.model)] == ["absent", "RUNNING", "RUNNING"]
    assert load.failed == []
    assert set(load.outcomes) == {(200, "champion")}
