"""What a later training starts from: its file, and models that cannot continue it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError, ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers.config import ModelSpec
from trainers.loop import starting_point
from trainers.loop.starting_point import StartingPoint

SPEC = ModelSpec(build="mlp", parameters={"hidden": (16,)})
TREES = ModelSpec(build="lightgbm", parameters={"rounds": 5})


@pytest.fixture(scope="module")
def point() -> StartingPoint:
    from tests.factories.trainers.boosted import boosted  # imports torch, which a starting point needs not

    return StartingPoint.of(boosted(spec=TREES))


def test_starting_point_survives_its_file(point: StartingPoint, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(point.to_bytes())
    read = StartingPoint.from_file(str(path))
    assert read._replace(state={}) == point._replace(state={})
    assert read.state.keys() == point.state.keys()
    assert all(np.array_equal(read.state[name], value) for name, value in point.state.items())


def test_file_of_a_newer_release_is_refused(
    point: StartingPoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(starting_point, "SCHEMA_VERSION", starting_point.SCHEMA_VERSION + 1)
    path.write_bytes(point.to_bytes())
    monkeypatch.undo()
    with raises(DataError, "data.stored_too_new"):
        StartingPoint.from_file(str(path))


@pytest.mark.parametrize(
    ("theirs", "ours", "task"),
    [
        (TREES, ModelSpec(build="xgboost", parameters={"rounds": 5}), "binary"),
        (TREES, TREES, "regression"),
        (SPEC, ModelSpec(build="mlp", parameters={"hidden": (32,)}), "binary"),
        (SPEC, ModelSpec(build="linear"), "binary"),
    ],
)
def test_other_model_cannot_continue(point: StartingPoint, theirs: ModelSpec, ours: ModelSpec, task: str) -> None:
    parameters = {name: str(value) for name, value in theirs.parameters.items()}
    before = point._replace(kind=theirs.name, parameters=parameters)
    with raises(ProjectError, "project.warm_start_model", version="3"):
        before.require_same_model("3", ours, TASKS[task])  # type: ignore[index]


def test_equal_layers_or_trees_of_other_sizes_can_continue(point: StartingPoint) -> None:
    point.require_same_model("3", ModelSpec(build="lightgbm", parameters={"rounds": 500}), TASKS["binary"])
    point._replace(kind="mlp", parameters={"hidden": "(16,)"}).require_same_model("3", SPEC, TASKS["binary"])
