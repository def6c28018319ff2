"""Final deletion: rows leave the table, and then its history."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import SnapshotNotFound
from cluster.settings import Settings
from cluster.storage.erasure import delete_rows, expire_snapshots, find_rows, in_history
from cluster.storage.tables import Tables
from tests.factories.cluster import customers, everything_below

NAME = "shop.sales"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def test_expire_snapshots_after_delete_leaves_no_trace_of_the_rows(tables: Tables, tmp_path: Path) -> None:
    for names in (("anna-1", "bert-2"), ("anna-1",), ("carl-3",)):
        tables.append(NAME, customers(*names))
    assert delete_rows(tables, NAME, {"customer": ["anna-1"]}) == 2
    assert sorted(tables.read(NAME)["customer"].to_pylist()) == ["bert-2", "carl-3"]
    assert b"anna-1" in everything_below(tmp_path)
    expired = expire_snapshots(tables, NAME)
    assert len(expired) >= 3
    assert b"anna-1" not in everything_below(tmp_path)
    assert sorted(tables.read(NAME)["customer"].to_pylist()) == ["bert-2", "carl-3"]
    with pytest.raises(SnapshotNotFound):
        tables.read(NAME, expired[0])
    assert tables.append(NAME, customers("dora-4")).rows == 3


def test_in_history_finds_deleted_rows_until_snapshots_expire(tables: Tables) -> None:
    anna = {"customer": ["anna-1"]}
    tables.append(NAME, customers("anna-1", "bert-2"))
    tables.append(NAME, customers("bert-2"))
    assert not in_history(tables, NAME, anna)
    assert find_rows(tables, NAME, anna, ["at"]).num_rows == 1
    delete_rows(tables, NAME, anna)
    assert in_history(tables, NAME, anna)
    assert not in_history(tables, NAME, {"customer": ["carl-3"]})
    expire_snapshots(tables, NAME)
    assert not in_history(tables, NAME, anna)


def test_delete_rows_without_a_match_makes_no_snapshot(tables: Tables) -> None:
    snapshot = tables.append(NAME, customers("bert-2"))
    assert delete_rows(tables, NAME, {"customer": ["anna-1"]}) == 0
    assert tables.latest(NAME) == snapshot
    assert expire_snapshots(tables, NAME) == ()


def test_delete_rows_of_a_whole_table_leaves_it_empty(tables: Tables) -> None:
    tables.append(NAME, customers("anna-1", "anna-1"))
    assert delete_rows(tables, NAME, {"customer": ["anna-1"]}) == 2
    expire_snapshots(tables, NAME)
    assert tables.read(NAME).num_rows == 0
