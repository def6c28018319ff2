"""Stores are copied, wiped and restored; a restore that would mix states is refused before it writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.errors import BackupError
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.auth.key_store import KeyStore
from features.online.lmdb_store import LmdbStore
from rayloop.backup.create import create_backup
from rayloop.backup.restore import restore_backup
from rayloop.console import ProgressConsole
from tests.factories.errors import raises

KEY = b"4:shop/0123456789abcdef.3/a"


@pytest.fixture
def stores(tmp_path: Path) -> Settings:
    """Stores with something in each. Their cluster is elsewhere, so that none is started here."""
    # Without RAYLOOP_ADDRESS a restore starts a cluster.
    settings = Settings(home=tmp_path / "home", address="http://127.0.0.1:1")
    with Registry(settings).run("shop", "a run") as run:
        run.log_texts({"note.txt": "x"})
    Tables(settings).append("shop.events", pa.table({"n": [1, 2]}))
    store = LmdbStore(settings.home / "online")
    store.put_many({KEY: b"1"})
    store.close()
    KeyStore(settings.access_uri).issue("me", ("shop",), ("infer",), now=0.0)
    (settings.home / "projects" / "shop").mkdir(parents=True)
    (settings.home / "projects" / "shop" / "report.html").write_text("<p>")
    return settings


def run(settings: Settings, function: str, folder: str) -> subprocess.CompletedProcess[str]:
    """Call a function in a process of its own: one that opened LMDB would keep the wiped files."""
    module, name = function.rsplit(".", 1)
    script = f"""
import sys
from cluster.errors import BackupError
from cluster.settings import Settings
from rayloop.console import ProgressConsole
from {module} import {name}
try:
    {name}(Settings(), {folder!r}, ProgressConsole())
except BackupError as error:
    sys.exit(error.code)
"""
    environment = {**os.environ, **settings.environment(), "RAYLOOP_HOME": str(settings.home)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.long
def test_wiped_stores_are_as_before(stores: Settings, tmp_path: Path) -> None:
    target = str(tmp_path / "backup")
    saved = run(stores, "rayloop.backup.create.create_backup", target)
    assert saved.returncode == 0, saved.stderr
    refused = run(stores, "rayloop.backup.restore.restore_backup", target)
    assert refused.stderr.splitlines()[-1] == "backup.stores_not_empty"
    shutil.rmtree(stores.home)
    restored = run(stores, "rayloop.backup.restore.restore_backup", target)
    assert restored.returncode == 0, restored.stderr
    assert Tables(stores).read("shop.events")["n"].to_pylist() == [1, 2]
    assert [key.name for key in KeyStore(stores.access_uri).read().values()] == ["me"]
    assert list((stores.home / "artifacts").rglob("note.txt"))
    assert (stores.home / "projects" / "shop" / "report.html").read_text() == "<p>"
    assert LmdbStore(stores.home / "online").get_many([KEY]) == [b"1"]
    Registry(stores).check()


def test_what_would_mix_states_is_refused(tmp_path: Path) -> None:
    settings, target = Settings(home=tmp_path / "home", address="http://127.0.0.1:1"), str(tmp_path / "backup")
    create_backup(settings, target, ProgressConsole())
    with raises(BackupError, "backup.target_not_empty"):
        create_backup(settings, target, ProgressConsole())
    with raises(BackupError, "backup.other_address", store="warehouse"):
        restore_backup(settings.model_copy(update={"home": tmp_path / "other"}), target, ProgressConsole())
