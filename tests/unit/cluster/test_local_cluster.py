"""What stops a cluster from starting, before anything is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster import local_cluster
from cluster.errors import OutOfMemory
from cluster.settings import Settings


def test_too_little_memory_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(OutOfMemory, match=r"1\.0 GiB of memory are free, a cluster needs 4"):
        local_cluster.start(settings)
    assert not settings.home.exists()
