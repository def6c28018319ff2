"""Tables: appends under a key, snapshots, columns, and the errors of each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from sqlalchemy.exc import IntegrityError, OperationalError

from cluster.errors import DataError, SnapshotNotFound
from cluster.settings import Settings
from cluster.storage.erasure import delete_rows
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from tests.factories.cluster import customers
from tests.factories.errors import raises

NAME = "shop.sales"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def numbers(table: pa.Table) -> list[int]:
    return sorted(table["n"].to_pylist())


def test_append_under_the_same_key_happens_once(tables: Tables) -> None:
    first = tables.append(NAME, rows(1, 2), key="january")
    assert tables.append(NAME, rows(1, 2), key="january") == first
    assert tables.append(NAME, rows(3), key="february").rows == 3
    assert tables.snapshot_for_key(NAME, "january") == first
    assert tables.snapshot_for_key(NAME, "march") is None
    assert numbers(tables.read(NAME)) == [1, 2, 3]


@pytest.mark.parametrize(("other", "expected"), [("january", [1, 2]), ("february", [1, 1, 2, 2])])
def test_append_during_another_counts_once_under_one_key(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, other: str, expected: list[int]
) -> None:
    tables.append(NAME, rows(), key="empty")
    load = tables.load_or_create

    def load_and_lose_the_race(name: str, schema: pa.Schema) -> Table:
        loaded = load(name, schema)
        monkeypatch.setattr(tables, "load_or_create", load)
        tables.append(NAME, rows(1, 2), key=other)
        return loaded

    monkeypatch.setattr(tables, "load_or_create", load_and_lose_the_race)
    tables.append(NAME, rows(1, 2), key="january")
    assert numbers(tables.read(NAME)) == expected


def test_append_repeated_after_a_lost_answer_counts_once(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqlCatalog.commit_table

    def commit_and_lose_the_answer(*args: Any) -> None:
        commit(*args)
        monkeypatch.setattr(SqlCatalog, "commit_table", commit)
        raise OperationalError("COMMIT", None, ConnectionError())

    monkeypatch.setattr(SqlCatalog, "commit_table", commit_and_lose_the_answer)
    with pytest.raises(OperationalError):
        tables.append(NAME, rows(1), key="january")
    assert tables.append(NAME, rows(1), key="january").rows == 1


def test_stream_between_times_opens_only_files_of_that_time(tables: Tables, tmp_path: Path) -> None:
    def timed(*days: int) -> pa.Table:
        when = [datetime(2024, 1, day, tzinfo=UTC) for day in days]
        return pa.table({"n": pa.array(days), "at": pa.array(when, pa.timestamp("us", "UTC"))})

    for days in ((1, 2), (3, 4), (5, 6)):
        tables.append(NAME, timed(*days))
    assert numbers(pa.concat_tables(tables.stream(NAME, columns=["n"]))) == [1, 2, 3, 4, 5, 6]
    span = ("at", datetime(2024, 1, 2, tzinfo=UTC).timestamp(), datetime(2024, 1, 4, tzinfo=UTC).timestamp())
    # The last file, which holds nothing of it, is not needed.
    newest = max((tmp_path / "warehouse").rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    assert numbers(pa.concat_tables(tables.stream(NAME, between=span))) == [2, 3]


def test_read_of_an_older_snapshot_returns_its_rows(tables: Tables) -> None:
    first = tables.append(NAME, rows(1))
    tables.append(NAME, rows(2))
    assert numbers(tables.read(NAME, first.id)) == [1]
    assert tables.latest(NAME).rows == 2


def test_read_of_an_unknown_table_or_snapshot_is_refused(tables: Tables) -> None:
    with raises(SnapshotNotFound, "data.table_not_found", table=NAME):
        tables.read(NAME)
    tables.append(NAME, rows(1))
    for ask in (lambda: tables.read(NAME, 42), lambda: tables.dataset(Snapshot(table=NAME, id=42, rows=1))):
        with raises(SnapshotNotFound, "data.snapshot_not_found", table=NAME, snapshot=42):
            ask()


def test_append_of_other_columns_is_refused_and_writes_nothing(tables: Tables) -> None:
    tables.append(NAME, rows(1))
    with raises(DataError, "data.columns_mismatch", missing=["n"], unknown=["m"]):
        tables.append(NAME, pa.table({"m": [1]}))
    assert numbers(tables.read(NAME)) == [1]


def test_append_with_evolve_adds_columns(tables: Tables) -> None:
    tables.append(NAME, rows(1))
    tables.append(NAME, rows(2).append_column("m", [["x"]]), evolve=True)
    tables.append(NAME, rows(3), evolve=True)
    assert dict(zip(*tables.read(NAME).to_pydict().values(), strict=True)) == {1: None, 2: "x", 3: None}


def test_drop_leaves_no_file_and_frees_the_name(tables: Tables, tmp_path: Path) -> None:
    for number in range(3):
        tables.append(NAME, rows(number))
    assert list(tmp_path.rglob("*.parquet"))
    tables.drop(NAME)
    tables.drop(NAME)
    assert not tables.exists(NAME)
    assert not list(tmp_path.rglob("*.parquet"))
    assert tables.append(NAME, rows(7)).rows == 1


def test_append_without_a_namespace_is_refused(tables: Tables) -> None:
    with raises(DataError, "data.no_namespace", table="sales"):
        tables.append("sales", rows(1))


def test_latest_timestamp_follows_appends_and_deletions(tables: Tables) -> None:
    tables.append(NAME, customers("a", "b", "c"))
    tables.append(NAME, customers("d"))
    assert tables.latest_timestamp(NAME, "at") == datetime(2024, 1, 3, tzinfo=UTC)
    delete_rows(tables, NAME, {"customer": ["c"]})
    assert tables.latest_timestamp(NAME, "at") == datetime(2024, 1, 2, tzinfo=UTC)
    delete_rows(tables, NAME, {"customer": ["a", "b", "d"]})
    assert tables.latest_timestamp(NAME, "at") is None


def test_table_names_of_a_namespace(tables: Tables) -> None:
    assert tables.table_names("shop") == []
    tables.append(NAME, rows(1))
    assert tables.table_names("shop") == [NAME]


def test_append_that_loses_the_race_for_a_namespace_succeeds(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    create = tables.catalog.create_namespace

    def create_and_lose(namespace: str) -> None:
        create(namespace)
        raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))

    monkeypatch.setattr(tables.catalog, "create_namespace", create_and_lose)
    assert tables.append(NAME, rows(1)).rows == 1
