"""Samples of tables in files: whole where they are small, spread over a large Parquet table, else the first rows."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from cluster.errors import DataError
from features.sources import table_files
from features.sources.table_files import TableFiles, find_files, read_file, sample_table
from tests.factories.errors import raises

ROWS = pl.DataFrame({"n": range(1000), "text": ["0501"] * 1000})


def write_parts(folder: Path) -> TableFiles:
    for number, part in enumerate(ROWS.iter_slices(500)):
        part.write_parquet(folder / f"{number}.parquet", row_group_size=50)
    (folder / "_SUCCESS").touch()
    return TableFiles("parquet", (str(folder),))


def test_small_tables_are_read_as_a_whole(tmp_path: Path) -> None:
    sample = sample_table(write_parts(tmp_path), Path(), ["n"])
    assert sample.rows.equals(ROWS.select("n"))
    assert (sample.columns, sample.total, sample.is_whole, sample.weight) == (("n", "text"), 1000, True, 1)


def test_large_parquet_table_is_sampled_in_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_ROWS", 200)
    sample = sample_table(write_parts(tmp_path), Path())
    assert (sample.rows.height, sample.total, sample.is_whole, sample.weight) == (200, 1000, False, 5)
    assert sample.rows["n"].to_list()[:12] == [*range(10), 50, 51]
    assert sample.rows["n"].max() == 959


def test_table_of_many_files_is_sampled_from_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_FILES", 4)
    for number, part in enumerate(ROWS.iter_slices(100)):
        part.write_parquet(tmp_path / f"{number}.parquet")
    sample = sample_table(TableFiles("parquet", (str(tmp_path),)), Path(), ["n"])
    assert sample.rows["n"].to_list() == [n for first in (0, 300, 600, 900) for n in range(first, first + 100)]
    assert (sample.total, sample.is_estimated, sample.is_whole, sample.weight) == (1000, True, False, 2)


def test_folders_named_like_values_are_columns(tmp_path: Path) -> None:
    ROWS.head(2).write_parquet(folder(tmp_path, "region=Saint%20Denis", "day=1") / "a.parquet")
    ROWS.tail(1).write_parquet(folder(tmp_path, "region=__HIVE_DEFAULT_PARTITION__", "day=2") / "a.parquet")
    files = TableFiles("parquet", (str(tmp_path),), row_id="row")
    sample = sample_table(files, Path(), ["n", "region", "day", "row"])
    assert sample.columns == ("n", "text", "region", "day", "row")
    assert sample.rows["day"].to_list() == ["1", "1", "2"]
    assert sample.rows["region"].to_list() == ["Saint Denis", "Saint Denis", None]
    read = [read_file(files, path, ["n", "day", "row"]) for path in find_files(files, Path())]
    assert sorted(day for parts in read for part in parts for day in part["day"].to_pylist()) == ["1", "1", "2"]


def folder(root: Path, *names: str) -> Path:
    path = root.joinpath(*names)
    path.mkdir(parents=True)
    return path


def test_large_csv_table_gives_its_first_rows_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_ROWS", 200)
    ROWS.write_csv(tmp_path / "rows.csv", separator=";")
    sample = sample_table(TableFiles("csv", ("rows.csv",), ";"), tmp_path)
    assert sample.rows.equals(ROWS.head(200).cast(pl.String))
    assert (sample.total, sample.is_whole, sample.weight) == (None, False, None)


def test_csv_table_without_rows_is_whole(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("n,text\n")
    sample = sample_table(TableFiles("csv", ("rows.csv",)), tmp_path)
    assert (sample.columns, sample.total, sample.rows.height) == (("n", "text"), 0, 0)


@pytest.mark.parametrize("path", ["nowhere.csv", "empty"])
def test_path_without_a_file_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with raises(DataError, "data.file_not_found", path=str(tmp_path / path)):
        sample_table(TableFiles("csv", (path,)), tmp_path)


def test_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    for kind in ("csv", "parquet"):
        with raises(DataError, "data.source_unreadable", location="a.csv"):
            sample_table(TableFiles(kind, ("a.csv",)), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_are_numbered_and_dated_by_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Literal["csv", "parquet"]
) -> None:
    path = tmp_path / f"rows.{ending}"
    ROWS.write_csv(path) if ending == "csv" else ROWS.write_parquet(path, row_group_size=50)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    files = TableFiles(ending, (str(path),), row_id="place", file_time="changed")
    whole = pl.concat(pl.DataFrame(part) for part in read_file(files, path, ["n", "place", "changed"]))
    assert whole.columns == ["n", "place", "changed"]
    assert whole["place"].to_list() == [f"rows.{ending}:{i}" for i in range(1000)]
    assert whole["changed"].unique().to_list() == [datetime.fromtimestamp(1_700_000_000, UTC)]
    monkeypatch.setattr(table_files, "MAX_ROWS", 100)
    sample = sample_table(files, Path(), ["n", "place"])
    assert sample.columns == ("n", "text", "place", "changed")
    expected = [f"rows.{ending}:{n}" for n in sample.rows["n"]]
    assert sample.rows["place"].to_list() == expected
    assert sample.rows.height == 100


def test_rows_of_files_that_are_called_alike_have_ids_of_their_own(tmp_path: Path) -> None:
    for month in ("01", "02"):
        (tmp_path / "2024" / month).mkdir(parents=True)
        ROWS.head(3).write_parquet(tmp_path / "2024" / month / "part-0.parquet")
    files = TableFiles("parquet", (str(tmp_path / "2024"),), row_id="place")
    parts = [part for path in find_files(files, Path()) for part in read_file(files, path, ["place"])]
    places = pl.concat(pl.DataFrame(part) for part in parts)["place"].to_list()
    assert places == [f"{month}/part-0.parquet:{i}" for month in ("01", "02") for i in range(3)]
