"""Rows to label as CSV, and back."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from cluster.errors import DataError
from cluster.values import Task
from rayloop.labeling.label_file import read_labels, write_queue
from tests.factories.deployments.tasks import BINARY, MULTICLASS
from tests.factories.errors import raises
from tests.factories.rayloop.label_queues import queue

REGRESSION = Task(kind="regression", label="delay")


def csv(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_written_rows_that_are_filled_in_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_queue(queue(BINARY, "007", "b/1", "c", carrier="=A,1", pixels=[0.0, 0.5]), path)
    rows = pl.read_csv(path, infer_schema=False)
    assert rows.columns[:2] == ["id", "label"]
    assert {"request", "row", "score", "why", "feature.carrier", "feature.pixels"} <= set(rows.columns)
    assert (rows.item(0, "feature.carrier"), json.loads(rows.item(0, "feature.pixels"))) == ("=A,1", [0.0, 0.5])
    assert read_labels(path, BINARY).is_empty()
    rows.with_columns(label=pl.Series(["1", None, "0"])).write_csv(path)
    assert read_labels(path, BINARY).rows() == [("007", 1.0), ("c", 0.0)]


def test_read_labels_needs_two_columns_and_ignores_the_others(tmp_path: Path) -> None:
    path = csv(tmp_path, "note,label,id", "sure, birch ,a", ",ash,b")
    assert read_labels(path, MULTICLASS).rows() == [("a", 1.0), ("b", 0.0)]


@pytest.mark.parametrize(
    ("lines", "task", "code", "fields"),
    [
        (["id,labels", "a,1"], BINARY, "data.label_file_columns", {"missing": ["label"]}),
        (["id,label", "a,1", "b,2"], BINARY, "data.label_value", {"line": 3, "label": "2"}),
        (["id,label", "a,oak"], MULTICLASS, "data.label_value", {"line": 2, "label": "oak"}),
        (["id,label", "a,late"], REGRESSION, "data.label_value", {"line": 2, "expected": "a number"}),
        (["id,label", "a,1", "b,", "a,0"], BINARY, "data.label_file_ids", {"id": "a", "line": 2}),
        (["id,label", ",1"], BINARY, "data.label_file_ids", {"id": None, "line": 2}),
        (["id,label", "a,1,2,3"], BINARY, "data.label_file_unreadable", {}),
    ],
)
def test_file_with_a_fault_is_refused_as_a_whole(
    tmp_path: Path, lines: list[str], task: Task, code: str, fields: dict[str, object]
) -> None:
    with raises(DataError, code, **fields):
        read_labels(csv(tmp_path, *lines), task)


def test_rows_in_a_folder_that_does_not_exist_are_an_error(tmp_path: Path) -> None:
    with raises(DataError, "data.label_file_unwritable"):
        write_queue(queue(BINARY, "a"), tmp_path / "absent" / "rows.csv")


def test_absent_and_empty_files_are_refused(tmp_path: Path) -> None:
    with raises(DataError, "data.label_file_unreadable"):
        read_labels(tmp_path / "absent.csv", BINARY)
    with raises(DataError, "data.label_file_unreadable"):
        read_labels(csv(tmp_path), BINARY)
