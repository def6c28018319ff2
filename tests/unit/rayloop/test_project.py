"""Project modules: found wherever they lie, and refused with one clear line when they are wrong."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.errors import ProjectError
from cluster.values import Task
from deployments.serve_schema import RequestLimits, Serving
from rayloop.cli import app
from rayloop.project import load_project, locate_project
from rayloop.stages.deploy import serving_options
from trainers.config import Choice, ModelSpec, TrainConfig, TuneConfig
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.export.compression import Distill

ROOT = Path(__file__).parents[3]
FACTORIES = ROOT / "tests" / "factories" / "rayloop"


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop", "digits"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def module(folder: Path, text: str) -> str:
    path = folder / "shop.py"
    path.write_text(text)
    return str(path)


def test_a_file_in_a_package_belongs_to_the_folder_above_it() -> None:
    found = locate_project("examples/flights/project.py")
    assert found.module == "examples.flights.project"
    assert found == locate_project("examples.flights.project")
    assert load_project(found).name == "flights"


def test_a_file_outside_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "digits.py"
    path.write_text((FACTORIES / "digits.py").read_text())
    found = locate_project(str(path))
    assert (found.folder, found.module) == (tmp_path, "digits")
    assert load_project(found).task.outputs == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("project = 3", "defines `project` as int"),
        ("", "defines no `project`"),
        ("x = = 3", "shop.py:1"),
        ("import nowhere_at_all", "shop.py:1: ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\n\nf()", "shop.py:2: ZeroDivisionError"),
        ("import rayloop as rl\nrl.TrainConfig(epoch=3)", "shop.py:2: TrainConfig: there is no 'epoch'"),
        ("import rayloop as rl\nrl.TrainConfig(lr=0)", "TrainConfig: lr=0: Input should be greater than 0"),
        ("import rayloop as rl\nrl.TuneConfig()", "TuneConfig: 'space' is missing"),
        ("import rayloop as rl\nrl.ModelSpec(build='resnet')", "'linear', 'mlp' or 'ft_transformer'"),
    ],
)
def test_what_is_wrong_in_a_module_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProjectError, match=r"shop\.py") as caught:
        load_project(locate_project(module(tmp_path, text)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_hides_our_packages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("")
    with pytest.raises(ProjectError, match="'features'"):
        load_project(locate_project(module(tmp_path, "project = None")))


@pytest.mark.parametrize("reference", ["no/such/file.py", "no.such.module"])
def test_a_project_that_is_nowhere_is_said_to_be(reference: str) -> None:
    with pytest.raises(ProjectError, match="no"):
        locate_project(reference)


def test_the_project_in_the_readme_is_short_and_sound(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(text.splitlines()) < 60
    found = load_project(locate_project(module(tmp_path, text)))
    assert (found.name, found.task.kind) == ("demand", "regression")


@pytest.mark.parametrize(
    "policy", ['slices=rl.SlicePolicy(columns=("color",))', 'fairness=rl.FairnessPolicy(groups=("color",))']
)
def test_a_column_that_the_gate_cannot_look_at_is_refused_before_anything_is_trained(
    tmp_path: Path, policy: str
) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    asked, found = re.subn(r"gate=rl\.GatePolicy\(.*\),\n", f"gate=rl.GatePolicy({policy}),\n", text)
    assert found == 1
    with pytest.raises(ProjectError, match="looks at color, which its feature set does not have"):
        load_project(locate_project(module(tmp_path, asked)))
    assert load_project(locate_project(module(tmp_path, asked.replace("color", "shop")))) is not None


def test_what_the_task_cannot_give_is_refused_before_anything_is_trained() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    gate = GatePolicy(thresholds=(Threshold(metric="rmse", max=1),))
    with pytest.raises(ProjectError, match="binary has no metric 'rmse'; there are auc, "):
        dataclasses.replace(project, gate=gate)
    task, train = Task(kind="regression", label="delay"), TrainConfig(calibrate="temperature")
    with pytest.raises(ProjectError, match="a regression has no probabilities"):
        dataclasses.replace(project, task=task, train=train, gate=GatePolicy())
    fairness = GatePolicy(fairness=FairnessPolicy(groups=("origin",), max_parity_difference=0.1))
    with pytest.raises(ProjectError, match="are of binary answers, and project 'flights' is regression"):
        dataclasses.replace(project, task=task, gate=fairness)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ModelSpec(parameters={"hiden": (8,)})},
        {"tune": TuneConfig(space={"hiden": Choice(options=((8,), (16,)))})},
        {"compress": (Distill(student=ModelSpec(parameters={"hiden": (8,)})),)},
    ],
)
def test_a_parameter_that_the_model_does_not_take_is_refused_with_those_it_has(changes: dict[str, Any]) -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    with pytest.raises(ProjectError, match="model 'mlp' has no parameter 'hiden'; it has hidden, "):
        dataclasses.replace(project, **changes)


def test_a_multilabel_project_is_refused_before_anything_is_trained() -> None:
    project = load_project(locate_project("examples/flights/project.py"))
    task = Task(kind="multilabel", label="tags", classes=("late", "cancelled"))
    with pytest.raises(ProjectError, match=r"multilabel: .*, and not served yet"):
        dataclasses.replace(project, task=task)


def test_replicas_and_limits_are_those_that_the_project_asks_for() -> None:
    asked = Serving(replicas=2, cpus=1.0, limits=RequestLimits(rows=10))
    project = dataclasses.replace(load_project(locate_project("examples.flights.project")), serving=asked)
    options = serving_options(cast(Any, SimpleNamespace(project=project)))
    assert (options.replicas, options.cpus, options.limits.rows) == (2, 1.0, 10)
    assert options.profile_window_s == project.drift.window_s


def test_a_view_that_nobody_declared_is_told_before_a_job_is_made() -> None:
    with pytest.raises(ProjectError, match=r"has no feature view 'nope'; declared are: .*tail_departures"):
        app.backfill("examples.flights.project", "nope")
