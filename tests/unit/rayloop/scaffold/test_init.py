"""A project is written for a table and is sound as it stands; what the table does not say is asked, never guessed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from cluster.errors import DataError, ProjectError
from features.sources import table_files
from features.split import HashSplit, TimeSplit
from rayloop.cli.app import app
from rayloop.project import Project, load_project, locate_project
from rayloop.project_check.judge import judge_project
from rayloop.scaffold.choices import Answers, Ask
from rayloop.scaffold.init import init_project
from tests.factories.errors import raises
from tests.factories.rayloop.orders import orders
from tests.factories.rayloop.package_tables import TABLES

NOTHING = Answers()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def no_terminal(what: str, columns: Sequence[str]) -> str:
    return ""


def write(name: str, frame: pl.DataFrame, answers: Answers = NOTHING, ask: Ask = no_terminal) -> None:
    """Write a table and its project."""
    frame.write_parquet(f"{name}.parquet")
    init_project(name, f"{name}.parquet", answers, ask, lambda line: None)


def load(name: str) -> Project:
    for module in (name, f"{name}.project"):
        sys.modules.pop(module, None)
    return load_project(locate_project(f"{name}.project"))


@pytest.mark.parametrize("name", TABLES)
def test_project_of_a_table_from_a_package_is_sound_and_passes_ruff(name: str, folder: Path) -> None:
    table = TABLES[name]
    path = table.write(folder, name)
    init_project(name, str(path), Answers(**table.options), no_terminal, lambda line: None)
    sys.modules.pop(name, None)
    report = judge_project(f"{name}.project")
    assert report.errors == 0, report.lines()
    assert report.unseen == ()
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--line-length",
        "120",
        "--select",
        "E,F,I,UP,B",
        name,
    ]
    assert subprocess.run(command, check=False).returncode == 0
    (instance,) = json.loads((folder / name / "request.json").read_text())["instances"]
    assert set(instance) == {column.name for column in load(name).features.request}


def test_time_and_entity_give_a_time_split_and_features_of_the_past(folder: Path) -> None:
    table = orders().drop("delivered_at", "order").with_columns(pl.lit("same").alias("shop"))
    write("shop", table, Answers(label="late"))
    project = load("shop")
    assert isinstance(project.split, TimeSplit)
    (view,) = project.features.views
    assert (view.entity.keys, view.strict) == (("customer",), True)
    assert "timestamp" in [latest.kind for latest in view.latest]
    assert "seconds_since_last_row" in [column.name for column in project.features.columns]
    assert "shop" not in [column.name for column in project.features.available_columns]
    assert project.sources[0].key == ("row_id",)


def test_bad_time_beyond_the_sample_is_left_out_of_the_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_ROWS", 600)
    times = pl.col("ordered_at").dt.strftime("%Y-%m-%d %H:%M:%S")
    table = orders().drop("delivered_at", "order").with_columns(times)
    bad = table.tail(1).with_columns(pl.lit("tomorrow").alias("ordered_at"))
    pl.concat([table, bad]).write_csv("shop.csv")
    init_project("shop", "shop.csv", Answers(label="late"), no_terminal, lambda line: None)
    assert isinstance(load("shop").split, TimeSplit)


def test_names_of_columns_are_no_code(folder: Path) -> None:
    label, entity = 'late"""\nraise SystemExit(3)\n"""', "shop\nraise SystemExit(4)\n#"
    table = orders().drop("delivered_at", "order", "customer").rename({"late": label})
    shops = pl.Series(entity, [f"s{i % 7}" for i in range(table.height)])
    write("shop", table.with_columns(shops), Answers(label=label, entity=entity))
    assert load("shop").task.label == label


def test_table_without_time_is_split_by_hash_and_by_the_entity(folder: Path) -> None:
    write("shop", orders().drop("ordered_at", "delivered_at"), Answers(label="late", entity="customer"))
    project = load("shop")
    assert project.split == HashSplit(group=("customer",))
    assert project.sources[0].key == ("order",)
    assert project.features.views == ()


def test_label_in_disguise_is_left_out(folder: Path) -> None:
    refunded = pl.when(pl.col("late") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))
    write("shop", orders().with_columns(refunded.alias("refund")), Answers(label="late", time="ordered_at"))
    assert "refund" not in [column.name for column in load("shop").features.request]
    assert "# - refund:" in (folder / "shop" / "project.py").read_text()


@pytest.mark.parametrize(
    ("label", "kind", "classes"),
    [
        (pl.Series(["a", "b", "c"] * 400), "multiclass", ("a", "b", "c")),
        (pl.Series(["yes", "no", "no"] * 400), "binary", ()),
        (pl.Series([True, False, None] * 400), "binary", ()),
        (pl.Series([3, 5, 8] * 400), "multiclass", ("3", "5", "8")),
        (pl.Series([0.5 * i for i in range(1200)]), "regression", ()),
    ],
)
def test_task_follows_from_the_values_of_the_label(label: pl.Series, kind: str, classes: tuple[str, ...]) -> None:
    write("shop", orders().with_columns(label.alias("target")), Answers(time="ordered_at"))
    task = load("shop").task
    assert (task.kind, task.label, task.classes) == (kind, "target", classes)
    assert judge_project("shop.project").errors == 0


def test_columns_that_are_not_clear_are_asked_or_refused() -> None:
    with raises(ProjectError, "project.init_unclear", what="time"):
        write("shop", orders())
    with raises(ProjectError, "project.init_unclear", what="label") as caught:
        write("shop", orders(), Answers(time="none"))
    assert caught.value.fields["candidates"] == ["customer", "price", "late"]
    asked = []

    def answer(what: str, columns: Sequence[str]) -> str:
        asked.append(what)
        return {"time": "ordered_at", "label": "late"}[what]

    write("shop", orders(), ask=answer)
    assert asked == ["time", "label"]
    assert load("shop").task.label == "late"


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (Answers(label="color"), "project.init_column"),
        (Answers(label="late", key="color"), "project.init_column"),
        (Answers(label="late", entity="late"), "project.init_column"),
        (Answers(label="late", time="customer"), "project.init_column"),
        (Answers(label="price", task="binary"), "project.init_task"),
    ],
)
def test_answer_that_does_not_fit_the_table_is_refused(answers: Answers, code: str, folder: Path) -> None:
    with raises(ProjectError, code):
        write("shop", orders(), answers if answers.time else answers._replace(time="ordered_at"))
    assert not (folder / "shop").exists()


def test_no_file_is_overwritten(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "request.json").write_text("mine")
    with raises(ProjectError, "project.init_exists"):
        write("shop", orders(), Answers(label="late", time="ordered_at"))
    assert (folder / "shop" / "request.json").read_text() == "mine"
    assert not (folder / "shop" / "project.py").exists()


@pytest.mark.parametrize(
    ("name", "file", "code"),
    [
        ("Shop", "rows.csv", "project.invalid_name"),
        ("shop", "nowhere.csv", "data.file_not_found"),
        ("shop", "rows.txt", "data.not_a_table_file"),
        ("shop", "rows.csv", "data.source_empty"),
    ],
)
def test_table_that_cannot_be_read_is_refused(name: str, file: str, code: str, folder: Path) -> None:
    (folder / "rows.csv").write_text("a,b\n")
    (folder / "rows.txt").write_text("a,b\n")
    with raises(ProjectError if code.startswith("project") else DataError, code):
        init_project(name, file, Answers(), no_terminal, lambda line: None)


def test_command_takes_options_without_a_terminal(folder: Path) -> None:
    """Cells of a CSV are text; codes keep their zeros, and times are read."""
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(500)]
    frame = pl.DataFrame({"zip": ["00501", "10001"] * 250, "at": at, "units": range(500)})
    frame.with_columns(pl.col("at").dt.to_string("iso:strict")).write_csv("sales.csv", separator=";")
    result = CliRunner().invoke(
        app, ["init", "sales", "--table", "sales.csv", "--label", "units", "--task", "regression"]
    )
    assert result.exit_code == 0, result.output
    project = load("sales")
    kinds = {column.name: column.kind for column in project.sources[0].columns}
    assert kinds == {"row_id": "category", "zip": "category", "units": "number", "at": "timestamp"}
