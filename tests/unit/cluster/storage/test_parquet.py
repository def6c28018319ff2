"""The parts of a table add up to the table, in its order, for any layout of its files."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError, SnapshotNotFound
from cluster.settings import Settings
from cluster.storage import iceberg_part, scan
from cluster.storage.parquet import READ_ROWS
from cluster.storage.scan import ScanPlan, plan_parquet_scan, plan_scan, row_group_bounds
from cluster.storage.tables import Tables
from tests.factories.errors import raises

ROWS = pa.table({"n": pa.array(range(1000), pa.int64()), "text": [f"t{i % 7}" for i in range(1000)]})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path / "home"))


def _read(plan: ScanPlan, columns: list[str]) -> pa.Table:
    # A part travels to the worker that reads it.
    copies = [pickle.loads(pickle.dumps(part)) for part in plan.parts]
    return pa.concat_tables([table for part in copies for table in part.read(columns)])


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_row_group_ranges_cover_all_groups_once(counts: list[int], size: int) -> None:
    ends = row_group_bounds(counts, size)
    assert ends[0] == 0
    assert ends[-1] == len(counts)
    runs = [counts[a:b] for a, b in pairwise(ends)]
    assert [n for run in runs for n in run] == counts
    assert all(sum(run) >= size for run in runs[:-1])
    assert all(sum(run[:-1]) < size for run in runs)


def test_plan_scan_of_a_large_file_splits_by_row_groups(tmp_path: Path) -> None:
    rows = pa.table({"n": pa.array(range(4 * READ_ROWS + 1), pa.int64())})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=READ_ROWS // 2)
    plan = plan_parquet_scan(str(tmp_path / "a.parquet"), cpus=2)
    assert [part.rows for part in plan.parts] == [READ_ROWS] * 4 + [1]
    assert plan.rows == rows.num_rows
    assert _read(plan, ["n"]).equals(rows)
    assert all(table.num_rows <= READ_ROWS for part in plan.parts for table in part.read(["n"]))


def test_plan_scan_of_a_folder_keeps_file_order_and_partition_columns(tmp_path: Path) -> None:
    for day, at in ((1, 0), (2, 500)):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(ROWS.slice(at, 500), tmp_path / f"day={day}" / "a.parquet")
    plan = plan_scan(str(tmp_path), Tables(Settings(home=tmp_path / "home")), cpus=2)
    assert plan.schema.names == ["n", "text", "day"]
    result = _read(plan, ["day", "n"])
    assert result["n"].to_pylist() == list(range(1000))
    assert result["day"].to_pylist() == [1] * 500 + [2] * 500


def test_plan_scan_of_a_catalog_table_splits_by_data_files(tables: Tables) -> None:
    first = tables.append("shop.sales", ROWS.slice(0, 400))
    tables.append("shop.sales", ROWS.slice(400))
    plan = plan_scan("shop.sales", tables, cpus=2)
    assert (len(plan.parts), plan.rows) == (2, 1000)
    result = _read(plan, ["text", "n"]).select(["n", "text"])
    assert result.schema == plan.schema
    assert result.cast(ROWS.schema).sort_by("n").equals(ROWS)
    older = plan_scan(f"shop.sales@{first.id}", tables, cpus=2)
    assert older.name == f"shop.sales@{first.id}"
    assert _read(older, ["n"])["n"].to_pylist() == list(range(400))


def test_read_of_a_later_column_is_null_in_older_files(tables: Tables) -> None:
    tables.append("shop.sales", ROWS.select(["n"]).slice(0, 2))
    tables.append("shop.sales", ROWS.slice(2, 2), evolve=True)
    result = _read(plan_scan("shop.sales", tables, cpus=2), ["n", "text"]).sort_by("n")
    assert result["text"].to_pylist() == [None, None, "t2", "t3"]


def test_read_of_dictionary_columns_from_parquet_and_catalog_is_encoded(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "day=a").mkdir(parents=True)
    pq.write_table(ROWS, tmp_path / "in" / "day=a" / "a.parquet", row_group_size=300)
    tables.append("shop.sales", ROWS)
    # pyiceberg's reader is only for files whose schema differs from the table's.
    monkeypatch.setattr(iceberg_part, "ArrowScan", None)
    for source, names in ((str(tmp_path / "in"), ["text", "day", "n"]), ("shop.sales", ["text", "n"])):
        plan = plan_scan(source, tables, cpus=2)
        result = pa.concat_tables([t for part in plan.parts for t in part.read(names, ["text", "day"])])
        assert pa.types.is_dictionary(result["text"].type)
        assert result["text"].to_pylist() == ROWS["text"].to_pylist()
        assert result["n"].to_pylist() == ROWS["n"].to_pylist()


def test_plan_scan_of_a_larger_table_has_no_larger_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "READ_ROWS", 10)
    monkeypatch.setattr(scan, "MAX_PART_ROWS", 40)
    for times in (1, 16):
        path = tmp_path / f"{times}.parquet"
        pq.write_table(pa.table({"n": range(400 * times)}), path, row_group_size=10)
        assert max(part.rows for part in plan_parquet_scan(str(path), cpus=2).parts) == 40


@pytest.mark.parametrize("where", ["file", "catalog"])
def test_read_of_large_row_groups_has_bounded_memory(where: str, tables: Tables, tmp_path: Path) -> None:
    rows = pa.table({name: range(16 * READ_ROWS) for name in ("a", "b")})
    source = "shop.sales"
    if where == "catalog":
        tables.append(source, rows)
    else:
        source = str(tmp_path / "one.parquet")
        pq.write_table(rows, source, use_dictionary=False)
    (part,) = plan_scan(source, tables, cpus=1).parts
    usual = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counted)
    try:
        assert sum(table.num_rows for table in part.read(["a", "b"])) == rows.num_rows
    finally:
        pa.set_memory_pool(usual)
    assert 0 < counted.max_memory() < rows.nbytes / 2


def test_read_of_files_with_other_types_or_missing_columns_casts_them(tmp_path: Path) -> None:
    pq.write_table(ROWS.slice(0, 2), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": pa.array([2, 3], pa.int16())}), tmp_path / "b.parquet")
    plan = plan_parquet_scan(str(tmp_path), cpus=2)
    result = pa.concat_tables([table for part in plan.parts for table in part.read(["text", "n"], ["text"])][1:])
    assert result.to_pydict() == {"text": [None, None], "n": [2, 3]}
    assert result.schema.field("n").type == pa.int64()


@pytest.mark.parametrize("name", ["nowhere", "no/where.parquet", "shop.nothing", "shop.nothing@5"])
def test_plan_scan_of_an_unknown_table_is_refused(name: str, tables: Tables) -> None:
    with raises(DataError, "data.table_not_found", table=name.partition("@")[0]):
        plan_scan(name, tables, cpus=2)


def test_plan_scan_of_other_files_is_refused(tables: Tables, tmp_path: Path) -> None:
    tables.append("shop.sales", ROWS)
    with raises(SnapshotNotFound, "data.snapshot_not_found", snapshot=7):
        plan_scan("shop.sales@7", tables, cpus=2)
    with raises(DataError, "data.invalid_snapshot", table="shop.sales", snapshot="x"):
        plan_scan("shop.sales@x", tables, cpus=2)
    (tmp_path / "a.parquet").write_text("n")
    with raises(DataError, "data.not_parquet"):
        plan_parquet_scan(str(tmp_path / "a.parquet"), cpus=2)
    (tmp_path / "empty").mkdir()
    with raises(DataError, "data.no_parquet_file"):
        plan_parquet_scan(str(tmp_path / "empty"), cpus=2)
