"""From a fitted model to a smaller version, or to the same one: no cluster, fits are made in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.errors import ProjectError
from cluster.settings import Settings
from features.manifest import Manifest
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.stages import train_version
from rayloop.stages.candidate import Candidate, Recipe
from rayloop.stages.train_version import build_version
from tests.factories.errors import raises
from tests.factories.rayloop.projects import InMemoryFrame, late_project
from tests.factories.trainers.frames import trained
from trainers.card.model_card import ModelCard
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy
from trainers.export.compression import Compression, Distill, Prune
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitRequest, FitResult

CONFIG = TrainConfig(epochs=5, batch_size=64, workers=1, lr=1e-2)
SPEC = ModelSpec(parameters={"hidden": (32, 16)})
STEPS = (Prune(share=0.5, epochs=2), Distill(student=ModelSpec(parameters={"hidden": (8,)}), epochs=6))


class Known:
    """Stands for TrainingData: what its encoded rows are known by."""

    def __init__(self, inputs: InputSpec) -> None:
        self.inputs = inputs

    def encode(self, *_: object) -> Known:
        return self


def _made(folder: Path, monkeypatch: pytest.MonkeyPatch, gate: GatePolicy, steps: tuple[Compression, ...]) -> Candidate:
    fits: list[FitResult] = []

    def fit(request: FitRequest, *_: object, **__: object) -> FitResult:
        found = trained(spec=request.spec, config=request.config, start=request.start, teacher=request.teacher)
        found.train_metrics.update(found.metrics)
        fits.append(found)
        return found

    monkeypatch.setattr(train_version, "fit", fit)
    project = replace(late_project(gate), compress=steps)
    context = ProjectContext(project, Location(Path(__file__).parent, "late"), Settings(home=folder), ProgressConsole())
    frame = InMemoryFrame()
    frame.data = Known(trained(spec=SPEC).inputs)  # type: ignore[assignment]
    return build_version(context, frame, Recipe(SPEC, CONFIG), "small")


def _tag(folder: Path, made: Candidate) -> str:
    """What run, version and model card say in one voice."""
    client = MlflowClient(tracking_uri=Settings(home=folder).mlflow_uri)
    card = Path(client.download_artifacts(made.version.run_id, "card/card.json")).read_text()
    said = {
        client.get_run(made.version.run_id).data.tags[train_version.COMPRESSION],
        made.version.tags[train_version.COMPRESSION],
        ModelCard.model_validate_json(card).compression,
    }
    assert len(said) == 1
    return said.pop()


def _size(made: Candidate) -> int:
    assert made.version.local_folder is not None
    return (made.version.local_folder / "weights.safetensors").stat().st_size


def test_compress_applies_steps_that_pass_the_gate_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _made(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.2), STEPS)
    assert _tag(tmp_path, made) == "pruned by 50%; distilled into mlp"
    names = [check.name for check in made.report.checks]
    assert [name for name in names if "whole" in name] == [
        "pruned by 50% as good as whole",
        "distilled into mlp as good as whole",
    ]
    plain = _made(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.2), ())
    assert plain.version.version == "2", "the steps are part of what a version is"
    assert train_version.COMPRESSION not in plain.version.tags
    assert _size(made) < _size(plain) / 2


def test_compress_skips_a_step_that_costs_quality_and_keeps_the_uncompressed_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin = Distill(student=ModelSpec(parameters={"hidden": (4,)}), epochs=1, lr=1e-9)
    made = _made(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.1), (ruin, STEPS[0]))
    told = _tag(tmp_path, made)
    assert told.startswith("not distilled into mlp: ")
    assert told.endswith("; pruned by 50%")
    assert made.report.passed
    recipe = Manifest.load(made.version.local_folder or tmp_path).recipe
    assert recipe["model"] == {"hidden": [32, 16]}
    assert (recipe["train"]["epochs"], recipe["train"]["lr"]) == (CONFIG.epochs, CONFIG.lr)


def test_compress_of_a_model_that_is_not_prunable_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(ProjectError, "project.model_not_prunable", model="linear"):
        _made(tmp_path, monkeypatch, GatePolicy(), (Distill(student=ModelSpec(build="linear")), Prune(share=0.5)))
