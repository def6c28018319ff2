"""`rayloop table`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.errors import DataError, SettingsError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.sources.stored_rows import record_ingestion
from rayloop.cli.app import app

NAME = "shop.orders"
SCHEMA = pa.schema([("order", pa.string()), ("price", pa.float64())])


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """A source's table with two snapshots, of which the first has the tag "good"; and a log."""
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    tables = Tables(Settings(home=tmp_path))
    record_ingestion(tables, NAME, SCHEMA, ("order",), datetime(2026, 1, 1, tzinfo=UTC))
    tables.append(NAME, pa.table([["a", "b"], [1.0, 2.0]], schema=SCHEMA))
    assert rayloop("tag", NAME, "good", "--reason", "checked").exit_code == 0
    tables.append(NAME, pa.table([["b", "c"], [20.0, 3.0]], schema=SCHEMA))
    tables.append("shop.predictions", pa.table({"id": ["1"]}))
    return tables


def rayloop(*words: str) -> Result:
    return CliRunner().invoke(app, ["table", *words])


def test_tables_are_listed_with_their_tags() -> None:
    header, *lines = rayloop("list").output.splitlines()
    assert header.split() == ["table", "rows", "snapshots", "changed", "tags"]
    cells = [line.split() for line in lines]
    assert [row[0] for row in cells] == [NAME, "shop.predictions"]
    assert (cells[0][1:3], cells[0][-1]) == (["4", "2"], "good")
    assert len(rayloop("list", "elsewhere").output.splitlines()) == 1


def test_two_snapshots_are_compared_by_key() -> None:
    result = json.loads(rayloop("compare", NAME, "good", "--json").output)
    counts = {name: result[name] for name in ("rows", "key", "added", "removed", "changed")}
    assert counts == {"rows": [2, 4], "key": ["order"], "added": 1, "removed": 0, "changed": 1}
    assert {column["column"] for column in result["columns"]} == {"order", "price"}
    assert "1 added, 0 removed, 1 changed" in rayloop("compare", NAME, "good").output


def test_rollback_is_recorded_and_says_the_way_forward(tables: Tables) -> None:
    output = rayloop("rollback", NAME, "good", "--reason", "loaded twice").output
    assert tables.read(NAME)["order"].to_pylist() == ["a", "b"]
    (again,) = (line.removeprefix("back: rayloop table ") for line in output.splitlines() if line.startswith("back"))
    assert "loaded twice" in rayloop("history", NAME).output
    assert rayloop(*again.split()).exit_code == 0
    assert tables.read(NAME).num_rows == 4


def test_tag_is_removed() -> None:
    assert rayloop("tag", NAME, "good", "--delete").exit_code == 0
    assert "good" not in rayloop("list").output


def test_table_of_a_log_is_not_rolled_back(tables: Tables) -> None:
    first = tables.latest("shop.predictions")
    assert first is not None
    tables.append("shop.predictions", pa.table({"id": ["2"]}))
    error = rayloop("rollback", "shop.predictions", str(first.id)).exception
    assert isinstance(error, DataError)
    assert error.code == "data.not_a_source_table"
    assert tables.read("shop.predictions").num_rows == 2


def test_tables_of_another_cluster_are_not_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOP_ADDRESS", "https://head:8265")
    error = rayloop("list").exception
    assert isinstance(error, SettingsError)
    assert error.code == "settings.stores_not_set"
