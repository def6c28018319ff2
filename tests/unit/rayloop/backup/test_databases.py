"""Copies of databases while others write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cluster.errors import BackupError
from rayloop.backup.databases import Database
from tests.factories.errors import raises


def test_sqlite_comes_back_as_it_was_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.db"
    database = Database(f"sqlite:///{path}", "X")
    assert not database.exists()
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("pragma journal_mode = wal")
        writer.execute("create table t (n integer)")
        writer.executemany("insert into t values (?)", [(n,) for n in range(1000)])
        writer.commit()
        # Neither what is not committed, nor the open transaction, is in the way.
        writer.execute("insert into t values (-1)")
        assert database.exists()
        database.dump(tmp_path / "dump")
    path.unlink()
    database.restore(tmp_path / "dump")
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("select count(*), min(n) from t").fetchone() == (1000, 0)


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "https://catalog", "mysql+pymysql://u:p@h/d"])
def test_a_store_that_is_no_database_here_is_refused(uri: str) -> None:
    with raises(BackupError, "backup.no_database", variable="RAYLOOP_TRACKING_URI"):
        Database(uri, "RAYLOOP_TRACKING_URI")


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises(BackupError, "backup.program_missing", program="pg_dump"):
        Database("postgresql+psycopg2://u:secret@h/d", "RAYLOOP_CATALOG_URI").dump(tmp_path / "dump")
