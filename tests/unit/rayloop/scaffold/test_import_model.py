"""A model that was trained elsewhere becomes a sound project; what cannot be served writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from cluster.errors import DataError, ProjectError, RayloopError
from cluster.settings import Settings
from features.manifest import MODEL_FILE
from features.split import TimeSplit
from rayloop.cli.app import app
from rayloop.project import Project, load_project, locate_project
from rayloop.project_check.judge import judge_project
from rayloop.scaffold.import_model import ImportRequest, import_model
from tests.factories.errors import raises
from tests.factories.trainers.foreign_models import NUMBERS, numeric_onnx, pipeline, table
from trainers.imports.imported_model import FACTS_FILE, FOLDER, ImportFacts, load_graph


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def take(request: ImportRequest, home: Path) -> str:
    return import_model(request, Settings(home=home), lambda line: None)


def write_rows(kind: str, label: str = "outcome") -> pl.DataFrame:
    rows, labels = table()
    frame = rows.with_columns(pl.Series(label, labels[kind]))
    frame.write_parquet("rows.parquet")
    return frame


def write_onnx(kind: str = "binary", zip_map: bool = False) -> None:
    rows, labels = table()
    Path("model.onnx").write_bytes(numeric_onnx(labels[kind], rows, zip_map)[0])


def load(name: str) -> Project:
    for module in ("project", name, f"{name}.project"):
        sys.modules.pop(module, None)
    return load_project(locate_project(f"{name}.project"))


def test_skops_pipeline_becomes_a_sound_project(folder: Path) -> None:
    from skops import io

    rows, labels = table()
    write_rows("multiclass")
    io.dump(pipeline(LogisticRegression(), labels["multiclass"], rows), "model.skops")
    path = take(ImportRequest("tiers", "model.skops", rows="rows.parquet"), folder)
    assert path == "tiers/project.py"
    project = load("tiers")
    assert (project.task.kind, project.task.classes) == ("multiclass", ("low", "mid", "top"))
    assert {column.name: column.kind for column in project.features.columns} == {
        "city": "category", "age": "number", "price": "number",
    }  # fmt: skip
    assert project.model.is_imported
    facts = ImportFacts.load(folder / "tiers")
    assert (facts.encoder.columns, facts.task) == (project.features.columns, project.task)
    assert facts.format == "scikit-learn"
    assert facts.source == str(folder / "model.skops")
    assert len(load_graph(folder / "tiers", facts)) > 1000
    report = judge_project("tiers.project")
    assert report.errors == 0, report.lines()
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I,UP,B"]
    assert subprocess.run([*command, "tiers"], check=False).returncode == 0
    (instance,) = json.loads((folder / "tiers" / "request.json").read_text())["instances"]
    assert set(instance) == {"age", "city", "price"}


def test_second_import_replaces_the_model_and_an_equal_one_changes_nothing(folder: Path) -> None:
    rows, labels = table()
    filled = write_rows("binary").select(*NUMBERS, "outcome").fill_null(0.0)
    filled.write_csv("rows.csv")
    write_onnx()
    take(ImportRequest("risk", "model.onnx", rows="rows.csv"), folder)
    first = ImportFacts.load(folder / "risk")
    text = (folder / "risk" / FOLDER / FACTS_FILE).read_text()
    take(ImportRequest("risk", "model.onnx"), folder)
    assert (folder / "risk" / FOLDER / FACTS_FILE).read_text() == text
    (folder / "risk" / FOLDER / "model.onnx").unlink()
    take(ImportRequest("risk", "model.onnx"), folder)
    load_graph(folder / "risk", ImportFacts.load(folder / "risk"))
    sys.modules.pop("project", None)
    Path("model.onnx").write_bytes(numeric_onnx(1 - labels["binary"], rows, True)[0])
    sys.modules.pop("project", None)
    take(ImportRequest("risk", "model.onnx"), folder)
    second = ImportFacts.load(folder / "risk")
    assert second.sha256 != first.sha256
    load_graph(folder / "risk", second)
    with raises(ProjectError, "project.nothing_imported"):
        load_graph(folder / "risk", first)


def test_time_splits_the_rows_and_is_not_asked_for(folder: Path) -> None:
    write_onnx()
    rows = write_rows("binary").select(*NUMBERS, "outcome").fill_null(0.0)
    times = pl.datetime_range(
        pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1) + pl.duration(hours=599), "1h", eager=True
    )
    rows.with_columns(times.alias("at")).write_parquet("rows.parquet")
    take(ImportRequest("risk", "model.onnx", rows="rows.parquet", label="outcome", time="at"), folder)
    project = load("risk")
    assert isinstance(project.split, TimeSplit)
    assert [column.name for column in project.features.request] == list(NUMBERS)
    assert judge_project("risk.project").errors == 0


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        ({"rows": ""}, ProjectError, "project.import_rows"),
        ({"label": "city"}, DataError, "data.import_classes"),
        ({"label": "nothing"}, ProjectError, "project.init_column"),
        ({"columns": ("age", "price", "city")}, DataError, "data.import_width"),
        ({"columns": ("age", "city")}, DataError, "data.import_input"),
        ({"columns": ("age", "weight")}, DataError, "data.import_columns"),
        ({"model": "absent.onnx"}, DataError, "data.file_not_found"),
        ({"model": "rows.parquet"}, DataError, "data.import_format"),
        ({"output": "label"}, DataError, "data.import_output"),
        ({"task": "regression"}, DataError, "data.import_not_scores"),
        ({"project": "Risk!"}, ProjectError, "project.invalid_name"),
    ],
)
def test_import_that_is_refused_writes_nothing(
    words: dict[str, object], kind: type[RayloopError], code: str, folder: Path
) -> None:
    write_onnx()
    write_rows("binary")
    before = sorted(folder.rglob("*"))
    request = ImportRequest("risk", "model.onnx", rows="rows.parquet", label="outcome", columns=NUMBERS)
    with raises(kind, code):
        take(request._replace(**words), folder)
    assert sorted(folder.rglob("*")) == before


def test_model_of_other_columns_leaves_the_imported_one(folder: Path) -> None:
    from skops import io

    rows, labels = table()
    write_onnx()
    write_rows("binary").with_columns(pl.col(NUMBERS).fill_null(0.0)).write_parquet("rows.parquet")
    take(ImportRequest("risk", "model.onnx", rows="rows.parquet", label="outcome", columns=NUMBERS), folder)
    before = (folder / "risk" / FOLDER / MODEL_FILE).read_bytes()
    io.dump(pipeline(LogisticRegression(), labels["binary"], rows), "model.skops")
    with raises(DataError, "data.import_columns", missing=["city"]):
        take(ImportRequest("risk", "model.skops"), folder)
    assert (folder / "risk" / FOLDER / MODEL_FILE).read_bytes() == before


def test_command_prints_the_code_of_a_refusal(folder: Path) -> None:
    Path("model.pkl").write_bytes(b"")
    write_rows("binary")
    result = CliRunner().invoke(app, ["import", "risk", "model.pkl", "--rows", "rows.parquet"])
    assert isinstance(result.exception, DataError)
    assert result.exception.code == "data.import_pickle"
    assert not (folder / "risk").exists()
