"""A cluster that cannot start is refused before any process is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster import local_cluster
from cluster.errors import OutOfMemory
from cluster.settings import Settings
from tests.factories.errors import raises


def test_start_with_too_little_memory_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    settings = Settings(home=tmp_path / "home")
    with raises(OutOfMemory, "memory.too_little", available_gib=1.0):
        local_cluster.start(settings)
    assert not settings.home.exists()
