"""What every unit test shares."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray starts a cluster by itself when something asks for its context; every later test would find it running."""
    if "ray" in sys.modules:
        monkeypatch.setattr("ray._private.auto_init_hook.enable_auto_connect", False)
    yield
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized(), "the test has started a Ray cluster"
