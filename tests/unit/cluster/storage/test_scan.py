"""Scans: which table or snapshot a name means, and how Parquet files are divided into parts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.scan import plan_parquet_scan, plan_scan, row_group_bounds
from cluster.storage.tables import Tables
from tests.factories.errors import raises

NAME = "shop.sales"


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def test_plan_scan_without_snapshot_means_the_newest_and_with_one_that_one(tables: Tables) -> None:
    first = tables.append(NAME, pa.table({"n": [1, 2]}))
    second = tables.append(NAME, pa.table({"n": [3]}))
    newest, older = plan_scan(NAME, tables, cpus=1), plan_scan(f"{NAME}@{first.id}", tables, cpus=1)
    assert (newest.name, newest.rows) == (f"{NAME}@{second.id}", 3)
    assert (older.name, older.rows) == (f"{NAME}@{first.id}", 2)


def test_plan_scan_of_invalid_snapshot_or_unknown_table_is_refused(tables: Tables) -> None:
    newest = tables.append(NAME, pa.table({"n": [1]}))
    for snapshot in ("", "yesterday"):
        with raises(DataError, "data.invalid_snapshot", snapshot=snapshot, newest=newest.id):
            plan_scan(f"{NAME}@{snapshot}", tables, cpus=1)
    for table in ("shop.other", "sales", "no/such.folder"):
        with raises(DataError, "data.table_not_found", table=table):
            plan_scan(table, tables, cpus=1)


@pytest.mark.parametrize(
    ("counts", "size", "bounds"),
    [
        ([], 10, [0]),
        ([3], 10, [0, 1]),
        ([5, 5, 5], 10, [0, 2, 3]),
        ([5, 4, 1, 9], 10, [0, 3, 4]),
        ([10, 10], 10, [0, 1, 2]),
    ],
)
def test_row_group_bounds_end_a_run_as_soon_as_it_has_the_size(counts: list[int], size: int, bounds: list[int]) -> None:
    assert row_group_bounds(counts, size) == bounds


def test_parts_of_a_file_have_its_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"n": range(200_000)}), path, row_group_size=50_000)
    plan = plan_parquet_scan(str(path), cpus=1)
    assert [part.rows for part in plan.parts] == [100_000, 100_000]
    read = pa.concat_tables(table for part in plan.parts for table in part.read(["n"]))
    assert read["n"].to_pylist() == list(range(200_000))
