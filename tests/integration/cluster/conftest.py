"""A door with the real HAProxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.cluster.door_process import running_door
from cluster.node.ports import free_port
from cluster.settings import Settings
from tests.factories.door import DoorSetup


@pytest.fixture(scope="module")
def door_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    ports = ("serve_port", "grpc_port", "haproxy_metrics_port")
    return Settings(
        home=tmp_path_factory.mktemp("home"), door_models=3, door_replicas=8, **{p: free_port() for p in ports}
    )


@pytest.fixture
def setup(door_settings: Settings) -> Iterator[DoorSetup]:
    with running_door(door_settings) as (door, serve, loop):
        setup = DoorSetup(door, serve, loop)
        with setup.client:
            yield setup
