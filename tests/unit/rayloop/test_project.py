"""Project modules: located by path or name, loaded, and refused with one line when they are wrong."""

from __future__ import annotations

import dataclasses
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import ProjectError
from cluster.values import Task
from deployments.serve_schema import RequestLimits, Serving
from features.labeling.labeling_functions import WeakLabels, labeling_function
from features.python_models.bundle import PythonRuntime
from monitoring.retraining.triggers import OnLabels
from rayloop.cli import app
from rayloop.project import Project, Retrain, load_project, locate_project
from rayloop.retraining.warm_start import load_warm_start
from rayloop.stages.deploy import serving_options
from rayloop.stages.retrain import retrain_champion
from tests.factories.errors import raises
from trainers.config import Choice, Distill, ModelSpec, Oversample, PythonModel, TrainConfig, TuneConfig
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.quality_gate import GatePolicy, Threshold

ROOT = Path(__file__).parents[3]
FACTORIES = ROOT / "tests" / "factories" / "rayloop"
_REWEIGHED = GatePolicy(fairness=FairnessPolicy(groups=("origin",), mitigate="reweigh"))


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop", "digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def module(folder: Path, text: str) -> str:
    path = folder / "shop.py"
    path.write_text(text)
    return str(path)


def test_locate_project_in_a_package_returns_the_folder_above_it() -> None:
    location = locate_project("examples/flights/project.py")
    assert location.module == "examples.flights.project"
    assert location == locate_project("examples.flights.project")
    assert load_project(location).name == "flights"


def test_locate_project_outside_of_packages_returns_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "digits.py"
    path.write_text((FACTORIES / "digits.py").read_text())
    location = locate_project(str(path))
    assert (location.folder, location.module) == (tmp_path, "digits")
    assert load_project(location).task.outputs == 10


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        ("project = 3", "project.not_defined", ["int"]),
        ("", "project.not_defined", []),
        ("x = = 3", "project.failed", ["shop.py:1"]),
        ("import nowhere_at_all", "project.failed", ["shop.py:1", "ModuleNotFoundError"]),
        ("def f():\n    return 1 / 0\n\nf()", "project.failed", ["shop.py:2", "ZeroDivisionError"]),
        ("import rayloop as rl\nrl.TrainConfig(epoch=3)", "project.invalid", ["shop.py:2", "TrainConfig", "'epoch'"]),
        ("import rayloop as rl\nrl.TrainConfig(lr=0)", "project.invalid", ["TrainConfig: lr=0"]),
        ("import rayloop as rl\nrl.TuneConfig()", "project.invalid", ["TuneConfig", "'space'"]),
        ("import rayloop as rl\nrl.ModelSpec(build='resnet')", "project.invalid", ["'linear'", "'ft_transformer'"]),
    ],
)
def test_load_project_reports_the_line_at_fault_in_one_line(
    tmp_path: Path, text: str, code: str, parts: list[str]
) -> None:
    with raises(ProjectError, code) as caught:
        load_project(locate_project(module(tmp_path, text)))
    # The sentence quotes the user's module and the exception's own text.
    message = str(caught.value)
    assert all(part in message for part in ["shop.py", *parts])
    assert "\n" not in message


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("no/such/file.py", "project.file_not_found"),
        ("no.such.module", "project.not_found"),
        ("README.md", "project.not_a_file"),
        ("examples/flights", "project.not_a_file"),
    ],
)
def test_locate_project_without_a_project_module_is_refused(reference: str, code: str) -> None:
    with raises(ProjectError, code, reference=reference):
        locate_project(reference)


def test_project_in_the_readme_is_short_and_loads(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(text.splitlines()) < 60
    project = load_project(locate_project(module(tmp_path, text)))
    assert (project.name, project.task.kind) == ("demand", "regression")


@pytest.mark.parametrize(
    "policy", ['slices=rl.SlicePolicy(columns=("color",))', 'fairness=rl.FairnessPolicy(groups=("color",))']
)
def test_project_with_an_unknown_gate_column_is_refused(tmp_path: Path, policy: str) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    module_text, count = re.subn(r"gate=rl\.GatePolicy\(.*\),\n", f"gate=rl.GatePolicy({policy}),\n", text)
    assert count == 1
    with raises(ProjectError, "project.unknown_gate_column", column="color"):
        load_project(locate_project(module(tmp_path, module_text)))
    assert load_project(locate_project(module(tmp_path, module_text.replace("color", "shop")))) is not None


def test_project_with_reasons_of_an_unknown_column_is_refused() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    known = project.features.columns[0].name
    assert dataclasses.replace(project, reasons={known: "Far away"}).reasons == {known: "Far away"}
    with raises(ProjectError, "project.unknown_reason", columns=["colour"]):
        dataclasses.replace(project, reasons={known: "Far away", "colour": "Too red"})


def test_project_with_metrics_of_another_task_is_refused() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    gate = GatePolicy(thresholds=(Threshold(metric="rmse", max=1),))
    with raises(ProjectError, "project.unknown_metric", metric="rmse", task="binary"):
        dataclasses.replace(project, gate=gate)
    task, train = Task(kind="regression", label="delay"), TrainConfig(calibrate="temperature")
    with raises(ProjectError, "project.regression_calibration", calibrate="temperature"):
        dataclasses.replace(project, task=task, train=train, gate=GatePolicy())
    fairness = GatePolicy(fairness=FairnessPolicy(groups=("origin",), max_parity_difference=0.1))
    with raises(ProjectError, "project.fairness_needs_binary", task_kind="regression"):
        dataclasses.replace(project, task=task, gate=fairness)


def test_project_with_live_fairness_that_its_log_cannot_show_is_refused() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    live = FairnessPolicy(groups=("origin",), max_error_difference=0.1, live=True)

    def gate(**changes: object) -> GatePolicy:
        return GatePolicy(fairness=live.model_copy(update=changes))

    assert dataclasses.replace(project, gate=gate()).gate.fairness.live
    with raises(ProjectError, "project.fairness_not_logged", columns=["distance"]):
        dataclasses.replace(project, gate=gate(groups=("origin", "distance")))
    for changes in ({"groups": ()}, {"max_error_difference": None}, {"max_parity_difference": 0.0}):
        with raises(ProjectError, "project.fairness_without_limit"):
            dataclasses.replace(project, gate=gate(**changes))
    with raises(ProjectError, "project.fairness_of_regression"):
        dataclasses.replace(project, gate=gate(), task=Task(kind="regression", label="delay"))


def test_project_that_cannot_be_reweighed_is_refused() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    assert dataclasses.replace(project, gate=_REWEIGHED).gate.fairness.compare
    with raises(ProjectError, "project.reweigh_without_groups"):
        dataclasses.replace(project, gate=GatePolicy(fairness=FairnessPolicy(mitigate="reweigh")))
    with raises(ProjectError, "project.reweigh_of_regression"):
        dataclasses.replace(project, gate=_REWEIGHED, task=Task(kind="regression", label="delay"))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ModelSpec(parameters={"hiden": (8,)})},
        {"tune": TuneConfig(space={"hiden": Choice(options=((8,), (16,)))})},
        {"compress": (Distill(student=ModelSpec(parameters={"hiden": (8,)})),)},
    ],
)
def test_project_with_an_unknown_model_parameter_is_refused(changes: dict[str, Any]) -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    with raises(ProjectError, "project.unknown_model_parameter", model="mlp", name="hiden"):
        dataclasses.replace(project, **changes)


@pytest.mark.parametrize(
    ("changes", "code", "fields"),
    [
        ({"model": ModelSpec(build="lightgbm"), "train": TrainConfig(epochs=9)}, "setting_not_for_trees", "epochs"),
        ({"model": ModelSpec(build="xgboost", parameters={"hidden": (8,)})}, "unknown_model_parameter", "hidden"),
        ({"compress": (Distill(student=ModelSpec(build="xgboost")),)}, "compressed_trees", None),
    ],
)
def test_project_of_trees_with_settings_of_modules_is_refused(
    changes: dict[str, Any], code: str, fields: str | None
) -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    with raises(ProjectError, f"project.{code}", **({"name": fields} if fields else {})):
        dataclasses.replace(project, **changes)
    trees = {"model": ModelSpec(build="lightgbm"), "train": TrainConfig(), "tune": None, "compress": ()}
    assert dataclasses.replace(project, **trees).model.name == "lightgbm"


def test_project_of_an_imported_model_refuses_what_would_change_it() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    fixed = {"model": ModelSpec(build="imported"), "tune": None, "compress": (), "simulation": None}
    imported = dataclasses.replace(project, **fixed)
    for what, change in (
        ("tune", {"tune": TuneConfig(space={"lr": Choice(options=(0.1, 0.2))})}),
        ("simulation", {"simulation": project.simulation}),
        ("compress", {"compress": (Distill(student=ModelSpec()),)}),
        ("train.calibrate", {"train": TrainConfig(calibrate="temperature")}),
        ("train.minority", {"train": TrainConfig(minority=Oversample())}),
        ("train.noise", {"train": TrainConfig(noise=0.1)}),
        ("gate.fairness.mitigate", {"gate": _REWEIGHED}),
    ):
        with raises(ProjectError, "project.imported_is_fixed", what=what):
            dataclasses.replace(imported, **change)


class Upper:
    """A Python model."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def load(self, files: Path) -> None:
        """Nothing to load."""

    def predict(self, rows: pa.RecordBatch) -> pa.Array:
        return rows.column(0)


class Lacking:
    def predict(self, rows: pa.RecordBatch) -> pa.Array:
        return rows.column(0)


def test_project_of_a_python_model_refuses_what_would_change_it() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    model = PythonModel(build=Upper, parameters={"factor": 2.0}, gpus=0.5)
    assert (model.is_python, model.is_fixed, model.is_module, model.is_imported) == (True, True, False, False)
    assert (model.name, model.runtime) == ("Upper", PythonRuntime(gpus=0.5))
    python = dataclasses.replace(project, model=model, tune=None, compress=(), simulation=None)
    for what, change in (
        ("tune", {"tune": TuneConfig(space={"lr": Choice(options=(0.1, 0.2))})}),
        ("simulation", {"simulation": project.simulation}),
        ("compress", {"compress": (Distill(student=ModelSpec()),)}),
        ("retrain.on", {"retrain": Retrain(on=(OnLabels(labels=10),))}),
        ("train.calibrate", {"train": TrainConfig(calibrate="temperature")}),
        ("train.minority", {"train": TrainConfig(minority=Oversample())}),
        ("train.noise", {"train": TrainConfig(noise=0.1)}),
        ("train.quantize", {"train": TrainConfig(quantize="int8")}),
        ("gate.fairness.mitigate", {"gate": _REWEIGHED}),
    ):
        with raises(ProjectError, "project.python_is_fixed", what=what):
            dataclasses.replace(python, **change)
    with raises(ProjectError, "project.python_is_fixed", what="distilled into Upper"):
        dataclasses.replace(project, compress=(Distill(student=model),))


def test_python_model_is_neither_retrained_nor_continued() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    model = PythonModel(build=Upper)
    python = dataclasses.replace(project, model=model, tune=None, compress=(), simulation=None)
    context = cast(Any, SimpleNamespace(project=python, champion="v1"))
    with raises(ProjectError, "project.retrain_python", model="flights"):
        retrain_champion(context, datetime(2024, 5, 1, tzinfo=UTC))
    with raises(ProjectError, "project.python_is_fixed", what="--from-version"):
        load_warm_start(context, "1", model, python.train)


def test_class_that_is_no_python_model_is_refused() -> None:
    with raises(ProjectError, "project.python_class", name="Lacking", missing=["load"]):
        PythonModel(build=Lacking)
    with raises(ProjectError, "project.python_class", name="int", missing=["load", "predict"]):
        PythonModel(build=int)
    with raises(ProjectError, "project.model_parameters", model="Upper"):
        PythonModel(build=Upper, parameters={"fraction": 2.0})


def test_project_with_a_multilabel_task_is_refused() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    task = Task(kind="multilabel", label="tags", classes=("late", "canceled"))
    with raises(ProjectError, "project.multilabel", project="flights"):
        dataclasses.replace(project, task=task)


def test_serving_options_are_those_of_the_project() -> None:
    serving = Serving(replicas=2, cpus=1.0, limits=RequestLimits(rows=10))
    project = dataclasses.replace(load_project(locate_project("examples.flights.project")), serving=serving)
    options = serving_options(cast(Any, SimpleNamespace(project=project)))
    assert (options.replicas, options.cpus, options.limits.rows) == (2, 1.0, 10)
    assert options.profile_window_s == project.drift.window_s


def test_backfill_of_an_unknown_view_is_refused_before_a_job_is_submitted() -> None:
    with raises(ProjectError, "project.unknown_view", view="nope"):
        app.backfill("examples.flights.project", "nope")


def _with_weak_labels(expression: pl.Expr, **changes: Any) -> Project:
    project = load_project(locate_project("examples/flights/project.py"))
    weak = WeakLabels(functions=(labeling_function("f", expression),))
    return dataclasses.replace(project, examples=dataclasses.replace(project.examples, weak=weak), **changes)


def test_project_with_labeling_functions_over_other_columns_is_refused() -> None:
    with raises(ProjectError, "project.unknown_weak_label_column", project="flights", columns=["color"]):
        _with_weak_labels(pl.col("color") == "red")
    every = pl.coalesce("origin", "wind_gust", "as_of").is_null()
    _with_weak_labels(every).require_weak_labels()


def test_project_of_regression_with_labeling_functions_is_refused() -> None:
    with raises(ProjectError, "project.weak_labels_of_regression", project="flights"):
        _with_weak_labels(
            pl.lit(1), task=Task(kind="regression", label="delay"), gate=GatePolicy(), train=TrainConfig()
        )


def test_project_without_labeling_functions_has_none_to_show() -> None:
    with raises(ProjectError, "project.weak_labels_missing", project="flights"):
        load_project(locate_project("examples/flights/project.py")).require_weak_labels()
