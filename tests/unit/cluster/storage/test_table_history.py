"""Snapshots of a table have tags; a table goes back to one of them and forward again, and appends go on from there."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cluster.errors import DataError, SnapshotNotFound
from cluster.settings import Settings
from cluster.storage.erasure import delete_rows, expire_snapshots, in_history
from cluster.storage.table_history import add_tag, changes, find_snapshot, list_snapshots, remove_tag, roll_back
from cluster.storage.tables import Tables
from tests.factories.errors import raises

NAME = "shop.sales"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    tables = Tables(Settings(home=tmp_path))
    for month, number in (("january", 1), ("february", 2)):
        tables.append(NAME, rows(number), key=month)
    return tables


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def numbers(tables: Tables) -> list[int]:
    return sorted(tables.read(NAME)["n"].to_pylist())


def test_snapshot_is_found_by_its_tag_its_number_and_as_the_current_one(tables: Tables) -> None:
    first, second = (each.id for each in list_snapshots(tables, NAME))
    assert add_tag(tables, NAME, "good", str(first), "ada", "before the promotion") == first
    assert [find_snapshot(tables, NAME, reference) for reference in ("good", str(second), "current")] == [
        first,
        second,
        second,
    ]
    assert [(v.rows, v.added, v.tags, v.state) for v in list_snapshots(tables, NAME)] == [
        (1, 1, ("good",), "earlier"),
        (2, 1, (), "current"),
    ]
    change = changes(tables, NAME)["tag good"]
    assert (change.by, change.reason, change.snapshot, change.schema_version) == (
        "ada",
        "before the promotion",
        first,
        2,
    )


def test_table_goes_back_and_forward_again(tables: Tables) -> None:
    add_tag(tables, NAME, "good", str(list_snapshots(tables, NAME)[0].id), "ada")
    done = roll_back(tables, NAME, "good", "bob", "February was loaded twice")
    assert (numbers(tables), done.rows) == ([1], (2, 1))
    assert [each.state for each in list_snapshots(tables, NAME)] == ["current", "rolled back"]
    change = changes(tables, NAME)["rollback 1"]
    assert (change.by, change.left, change.snapshot) == ("bob", done.left, done.current)
    roll_back(tables, NAME, str(done.left), "bob")
    assert numbers(tables) == [1, 2]
    assert list(changes(tables, NAME)) == ["tag good", "rollback 1", "rollback 2"]


def test_rows_that_were_rolled_back_land_again_under_their_key(tables: Tables) -> None:
    roll_back(tables, NAME, str(list_snapshots(tables, NAME)[0].id), "bob")
    assert tables.snapshot_for_key(NAME, "february") is None
    tables.append(NAME, rows(20), key="february")
    assert numbers(tables) == [1, 20]
    assert [each.state for each in list_snapshots(tables, NAME)] == ["earlier", "rolled back", "current"]


def test_tag_is_given_to_one_snapshot_and_removed(tables: Tables) -> None:
    first = list_snapshots(tables, NAME)[0].id
    add_tag(tables, NAME, "good", str(first), "ada")
    assert add_tag(tables, NAME, "good", str(first), "ada") == first
    with raises(DataError, "data.tag_exists", tag="good", snapshot=first):
        add_tag(tables, NAME, "good", "current", "ada")
    remove_tag(tables, NAME, "good")
    assert changes(tables, NAME) == {}
    with raises(DataError, "data.tag_not_found", snapshot="good", tags=[]):
        find_snapshot(tables, NAME, "good")


@pytest.mark.parametrize("tag", ["main", "current", "", "1st", "a b", "x" * 64])
def test_name_that_is_no_tag_is_refused(tables: Tables, tag: str) -> None:
    with raises(DataError, "data.invalid_tag", tag=tag):
        add_tag(tables, NAME, tag, "current", "ada")


@pytest.mark.parametrize("reference", ["nothing", "17", "main", ""])
def test_snapshot_that_is_none_is_refused(tables: Tables, reference: str) -> None:
    with raises(DataError, "data.tag_not_found", snapshot=reference):
        roll_back(tables, NAME, reference, "bob")
    assert numbers(tables) == [1, 2]


def test_current_snapshot_is_no_way_back(tables: Tables) -> None:
    with raises(DataError, "data.already_current"):
        roll_back(tables, NAME, "current", "bob")


def test_table_that_does_not_exist_has_no_list_snapshots(tables: Tables) -> None:
    with raises(SnapshotNotFound, "data.table_not_found"):
        list_snapshots(tables, "shop.nothing")


def test_erasure_reaches_tagged_list_snapshots(tables: Tables) -> None:
    tables.append("shop.people", pa.table({"name": ["ada", "bob"]}))
    add_tag(tables, "shop.people", "good", "current", "ada")
    delete_rows(tables, "shop.people", {"name": ["ada"]})
    expire_snapshots(tables, "shop.people")
    assert tables.read("shop.people")["name"].to_pylist() == ["bob"]
    assert all(each.tags == () for each in list_snapshots(tables, "shop.people"))


def test_erasure_reaches_rows_that_were_rolled_back(tables: Tables) -> None:
    anna = {"name": ["anna"]}
    for name in ("bob", "anna"):
        tables.append("shop.people", pa.table({"name": [name]}))
    assert not in_history(tables, "shop.people", anna)
    left = roll_back(tables, "shop.people", str(list_snapshots(tables, "shop.people")[0].id), "bob").left
    assert delete_rows(tables, "shop.people", anna) == 0
    assert in_history(tables, "shop.people", anna)
    expire_snapshots(tables, "shop.people")
    with raises(DataError, "data.tag_not_found"):
        find_snapshot(tables, "shop.people", str(left))
