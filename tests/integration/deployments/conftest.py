"""A served model with versions of known quality. ``cluster`` comes from tests/integration/conftest.py."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import ModelVersion
from features.definitions import Column
from tests.factories.deployments.bundles import FEATURES, Slope, register, write_bundle

MODEL = "trips"
TRUE_SLOPE = 2.0
_WEIGHT = Column(name="weight", kind="number")


class Versions:
    """Registered versions, by what is known about them."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.champion = register(registry, MODEL, write_bundle(folder / "champion", Slope(0.75 * TRUE_SLOPE)))
        self.good = register(registry, MODEL, write_bundle(folder / "good", Slope(TRUE_SLOPE)))
        self.bad = register(registry, MODEL, write_bundle(folder / "bad", Slope(-TRUE_SLOPE)))
        broken = write_bundle(folder / "broken", Slope(TRUE_SLOPE))
        self.broken = register(registry, MODEL, broken, spoil=_spoil)
        # Its request columns are not those that callers of the champion send.
        other = FEATURES.model_copy(update={"request": (*FEATURES.request, _WEIGHT)})
        self.failing = register(registry, MODEL, write_bundle(folder / "failing", Slope(TRUE_SLOPE), features=other))


@pytest.fixture(scope="session")
def registry(cluster: Settings) -> Registry:
    return Registry(cluster)


@pytest.fixture(scope="session")
def versions(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(registry, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def served(cluster: Settings, registry: Registry, versions: Versions) -> Iterator[ModelVersion]:
    """The champion, answering; taken down at the end."""
    import ray

    from deployments.rollout import serve_client, serve_config

    writer = serve_client.connect(cluster)
    ray.get(writer.deploy.remote(versions.champion, serve_config.ServingOptions(profile_window_s=86400.0)))
    registry.set_alias(versions.champion, CHAMPION)
    yield versions.champion
    ray.get(writer.remove.remote(MODEL))


@pytest.fixture(scope="session")
def http(cluster: Settings, served: ModelVersion) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{cluster.endpoint}/v2/models/{MODEL}", timeout=30.0) as client:
        yield client


def _spoil(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")
