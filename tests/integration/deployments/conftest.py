"""A served model with versions of known quality. ``cluster`` comes from tests/integration/conftest.py."""

from collections.abc import Iterator

import httpx
import pytest

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import ModelVersion
from tests.factories.deployments.versions import MODEL, Versions


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

    from deployments.rollout import serve_config
    from deployments.rollout.serve_config import connect_config_writer

    writer = connect_config_writer(cluster)
    ray.get(writer.deploy.remote(versions.champion, serve_config.ServingOptions(profile_window_s=86400.0)))
    registry.set_alias(versions.champion, CHAMPION)
    yield versions.champion
    # Another one may have taken its place.
    ray.get(connect_config_writer(cluster).remove.remote(MODEL))


@pytest.fixture(scope="session")
def http(cluster: Settings, served: ModelVersion) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{cluster.endpoint}/v2/models/{MODEL}", timeout=30.0) as client:
        yield client
