"""Stores to run the same tests on: LMDB, and a real Redis server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.redis_server import redis_server
from features.online.store import ProjectStore, open_store


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(params=["lmdb", "redis"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"lmdb://{tmp_path / 'online'}" if request.param == "lmdb" else f"{request.getfixturevalue('redis')}/0"


@pytest.fixture
def store(uri: str) -> ProjectStore:
    """The part of project "shop" of an empty store."""
    opened = open_store(uri, "shop")
    opened.shared.delete(opened.shared.keys(b""))
    return opened
