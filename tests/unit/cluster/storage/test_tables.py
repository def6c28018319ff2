"""Named tables: appends that happen once, snapshots that stay, and errors for people."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.avro.file import AvroFile
from pyiceberg.io.pyarrow import PyArrowFileIO
from sqlalchemy.exc import IntegrityError

from cluster.errors import DataError, SnapshotNotFound
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot

NAME = "shop.sales"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def numbers(table: pa.Table) -> list[int]:
    return sorted(table["n"].to_pylist())


def test_an_append_under_one_key_happens_once(tables: Tables) -> None:
    first = tables.append(NAME, rows(1, 2), key="january")
    assert tables.append(NAME, rows(1, 2), key="january") == first
    assert tables.append(NAME, rows(3), key="february").rows == 3
    assert tables.snapshot_for_key(NAME, "january") == first
    assert tables.snapshot_for_key(NAME, "march") is None
    assert numbers(tables.read(NAME)) == [1, 2, 3]


def test_rows_stream_and_only_files_of_the_time_asked_for_are_opened(tables: Tables, tmp_path: Path) -> None:
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


def test_an_older_snapshot_stays_readable(tables: Tables) -> None:
    first = tables.append(NAME, rows(1))
    tables.append(NAME, rows(2))
    assert numbers(tables.read(NAME, first.id)) == [1]
    assert tables.latest(NAME).rows == 2


def test_a_snapshot_or_table_that_does_not_exist_is_named(tables: Tables) -> None:
    with pytest.raises(SnapshotNotFound, match=r"shop\.sales.*does not exist"):
        tables.read(NAME)
    newest = tables.append(NAME, rows(1))
    for ask in (lambda: tables.read(NAME, 42), lambda: tables.dataset(Snapshot(table=NAME, id=42, rows=1))):
        with pytest.raises(SnapshotNotFound, match=rf"no snapshot 42.*{newest.id}"):
            ask()


def test_rows_of_another_shape_are_refused_and_nothing_is_written(tables: Tables) -> None:
    tables.append(NAME, rows(1))
    with pytest.raises(DataError, match=r"missing.*unknown"):
        tables.append(NAME, pa.table({"m": [1]}))
    assert numbers(tables.read(NAME)) == [1]


def test_a_column_more_is_taken_in_when_that_is_asked_for(tables: Tables) -> None:
    tables.append(NAME, rows(1))
    tables.append(NAME, rows(2).append_column("m", [["x"]]), evolve=True)
    tables.append(NAME, rows(3), evolve=True)
    assert dict(zip(*tables.read(NAME).to_pydict().values(), strict=True)) == {1: None, 2: "x", 3: None}


def test_a_dropped_table_leaves_no_file_and_its_name_is_free(tables: Tables, tmp_path: Path) -> None:
    for number in range(3):
        tables.append(NAME, rows(number))
    assert list(tmp_path.rglob("*.parquet"))
    tables.drop(NAME)
    tables.drop(NAME)
    assert not tables.exists(NAME)
    assert not list(tmp_path.rglob("*.parquet"))
    assert tables.append(NAME, rows(7)).rows == 1


def test_a_name_without_its_namespace_is_refused(tables: Tables) -> None:
    with pytest.raises(DataError, match=r"namespace\.table"):
        tables.append("sales", rows(1))


def customers(*names: str) -> pa.Table:
    at = [datetime(2024, 1, 1 + i, tzinfo=UTC) for i in range(len(names))]
    return pa.table({"customer": list(names), "at": pa.array(at, pa.timestamp("us", tz="UTC"))})


def everything_below(folder: Path) -> bytes:
    """All cells of all Parquet files, all entries of all manifests, and all other bytes, that lie in a folder."""
    told = [str(pq.read_table(path).to_pylist()) for path in folder.rglob("*.parquet")]
    for path in folder.rglob("*.avro"):
        with AvroFile(PyArrowFileIO().new_input(str(path))) as records:
            told += [str(list(records))]
    return "".join(told).encode() + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_deleted_rows_are_nowhere_once_older_snapshots_are_expired(tables: Tables, tmp_path: Path) -> None:
    for names in (("anna-1", "bert-2"), ("anna-1",), ("carl-3",)):
        tables.append(NAME, customers(*names))
    assert tables.delete(NAME, {"customer": ["anna-1"]}) == 2
    assert sorted(tables.read(NAME)["customer"].to_pylist()) == ["bert-2", "carl-3"]
    assert b"anna-1" in everything_below(tmp_path)
    gone = tables.expire(NAME)
    assert len(gone) >= 3
    assert b"anna-1" not in everything_below(tmp_path)
    assert sorted(tables.read(NAME)["customer"].to_pylist()) == ["bert-2", "carl-3"]
    with pytest.raises(SnapshotNotFound):
        tables.read(NAME, gone[0])
    assert tables.append(NAME, customers("dora-4")).rows == 3


def test_older_snapshots_hold_what_was_deleted_since(tables: Tables) -> None:
    anna = {"customer": ["anna-1"]}
    tables.append(NAME, customers("anna-1", "bert-2"))
    tables.append(NAME, customers("bert-2"))
    assert not tables.in_history(NAME, anna)
    assert tables.find(NAME, anna, ["at"]).num_rows == 1
    tables.delete(NAME, anna)
    assert tables.in_history(NAME, anna)
    assert not tables.in_history(NAME, {"customer": ["carl-3"]})
    tables.expire(NAME)
    assert not tables.in_history(NAME, anna)


def test_a_deletion_of_nobody_makes_no_snapshot(tables: Tables) -> None:
    made = tables.append(NAME, customers("bert-2"))
    assert tables.delete(NAME, {"customer": ["anna-1"]}) == 0
    assert tables.latest(NAME) == made
    assert tables.expire(NAME) == ()


def test_all_rows_may_be_deleted(tables: Tables) -> None:
    tables.append(NAME, customers("anna-1", "anna-1"))
    assert tables.delete(NAME, {"customer": ["anna-1"]}) == 2
    tables.expire(NAME)
    assert tables.read(NAME).num_rows == 0


def test_the_newest_value_of_a_column_is_known_without_reading_it(tables: Tables) -> None:
    tables.append(NAME, customers("a", "b", "c"))
    tables.append(NAME, customers("d"))
    assert tables.latest_timestamp(NAME, "at") == datetime(2024, 1, 3, tzinfo=UTC)
    tables.delete(NAME, {"customer": ["c"]})
    assert tables.latest_timestamp(NAME, "at") == datetime(2024, 1, 2, tzinfo=UTC)
    tables.delete(NAME, {"customer": ["a", "b", "d"]})
    assert tables.latest_timestamp(NAME, "at") is None


def test_the_tables_of_a_namespace(tables: Tables) -> None:
    assert tables.table_names("shop") == []
    tables.append(NAME, rows(1))
    assert tables.table_names("shop") == [NAME]


def test_two_that_make_a_namespace_at_once_both_get_their_table(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tables._catalog.create_namespace

    def beaten(namespace: str) -> None:
        made(namespace)
        raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))

    monkeypatch.setattr(tables._catalog, "create_namespace", beaten)
    assert tables.append(NAME, rows(1)).rows == 1
