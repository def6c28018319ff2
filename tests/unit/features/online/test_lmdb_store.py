"""LMDB on disk: what is written is synced, and damaged files give one error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from cluster.errors import StoreUnavailable
from features.online.lmdb_store import LmdbStore
from features.online.store import open_store
from tests.factories.errors import raises

PAGE = 4096


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store of 600 pages, closed."""
    folder = tmp_path_factory.mktemp("lmdb") / "online"
    store = LmdbStore(folder)
    store.put_many({b"%d" % number: os.urandom(3 * PAGE) for number in range(150)})
    store.delete([b"%d" % number for number in range(0, 150, 3)])
    store.close()
    return folder


def _overwrite(file: Path, page: int, pages: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(page * PAGE)
        opened.write(b"\xa5" * PAGE * pages)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no LMDB file": lambda file: file.write_text("no database " * 1000),
    "header": lambda file: _overwrite(file, 0, 2),
    "pages": lambda file: _overwrite(file, 2, 300),
    "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut after the header": lambda file: os.truncate(file, 2 * PAGE),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_open_store_with_damaged_files_is_one_error(filled: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(filled, folder := tmp_path / "online")
    DAMAGES[name](folder / "data.mdb")
    with raises(StoreUnavailable, "store.damaged", folder=str(folder)):
        open_store(f"lmdb://{folder}", "shop")


def test_open_store_of_a_copy_checks_it_once(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, folder := tmp_path / "online")
    store = LmdbStore(folder)
    assert len(store.keys(b"")) == 100
    store.close()
    # The same file since the same boot: its pages are not read again.
    _overwrite(folder / "data.mdb", 100, 1)
    LmdbStore(folder).close()


def test_a_file_cut_after_it_was_checked_is_noticed(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, folder := tmp_path / "online")
    LmdbStore(folder).close()
    os.truncate(folder / "data.mdb", 10 * PAGE)
    with raises(StoreUnavailable, "store.damaged"):
        LmdbStore(folder)


def test_open_store_in_a_folder_that_is_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("")
    with raises(StoreUnavailable, "store.failed", address=str(tmp_path / "online")):
        LmdbStore(tmp_path / "online")


def test_each_write_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No option that lets a loss of power take a write that returned, or leave part of one."""
    opened = []
    whole = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda *a, **options: opened.append(env := whole(*a, **options)) or env)
    LmdbStore(tmp_path)
    flags = opened[0].flags()
    assert {name: flags[name] for name in ("sync", "metasync", "map_async", "writemap")} == {
        "sync": True, "metasync": True, "map_async": False, "writemap": False,
    }  # fmt: skip
