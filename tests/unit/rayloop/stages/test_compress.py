"""Compression between fit and registration, without a cluster: this process fits the models."""

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
from tests.factories.trainers.training import trained
from trainers.card.model_card import ModelCard
from trainers.config import Compression, Distill, ModelSpec, Prune, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitRequest, FitResult

CONFIG = TrainConfig(epochs=5, batch_size=64, workers=1, lr=1e-2)
SPEC = ModelSpec(parameters={"hidden": (32, 16)})
STEPS = (Prune(share=0.5, epochs=2), Distill(student=ModelSpec(parameters={"hidden": (8,)}), epochs=6))


class EncodedData:
    """Replaces TrainingData; has its input spec."""

    def __init__(self, inputs: InputSpec) -> None:
        self.inputs = inputs

    def encode(self, *_: object) -> EncodedData:
        return self


def _build(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gate: GatePolicy, steps: tuple[Compression, ...]
) -> Candidate:
    fits: list[FitResult] = []

    def fit(request: FitRequest, *_: object, **__: object) -> FitResult:
        result = trained(spec=request.spec, config=request.config, start=request.start, teacher=request.teacher)
        result.train_metrics.update(result.metrics)
        fits.append(result)
        return result

    monkeypatch.setattr(train_version, "fit", fit)
    project = replace(late_project(gate), compress=steps)
    context = ProjectContext(project, Location(Path(__file__).parent, "late"), Settings(home=folder), ProgressConsole())
    frame = InMemoryFrame()
    frame.data = EncodedData(trained(spec=SPEC).inputs)  # type: ignore[assignment]
    return build_version(context, frame, Recipe(SPEC, CONFIG), "small")


def _tag(folder: Path, candidate: Candidate) -> str:
    """Return the compression tag, which run, version and model card share."""
    client = MlflowClient(tracking_uri=Settings(home=folder).mlflow_uri)
    card = Path(client.download_artifacts(candidate.version.run_id, "card/card.json")).read_text()
    tags = {
        client.get_run(candidate.version.run_id).data.tags[train_version.COMPRESSION],
        candidate.version.tags[train_version.COMPRESSION],
        ModelCard.model_validate_json(card).compression,
    }
    assert len(tags) == 1
    return tags.pop()


def _size(candidate: Candidate) -> int:
    assert candidate.version.local_folder is not None
    return (candidate.version.local_folder / "weights.safetensors").stat().st_size


@pytest.mark.long
def test_compress_applies_steps_that_pass_the_gate_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = _build(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.2), STEPS)
    assert _tag(tmp_path, candidate) == "pruned by 50%; distilled into mlp"
    names = [check.name for check in candidate.report.checks]
    assert [name for name in names if "whole" in name] == [
        "pruned by 50% as good as whole",
        "distilled into mlp as good as whole",
    ]
    plain = _build(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.2), ())
    assert plain.version.version == "2", "the steps are part of what a version is"
    assert train_version.COMPRESSION not in plain.version.tags
    assert _size(candidate) < _size(plain) / 2


@pytest.mark.long
def test_compress_skips_a_step_that_costs_quality_and_keeps_the_uncompressed_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin = Distill(student=ModelSpec(parameters={"hidden": (4,)}), epochs=1, lr=1e-9)
    candidate = _build(tmp_path, monkeypatch, GatePolicy(max_compression_loss=0.1), (ruin, STEPS[0]))
    tag = _tag(tmp_path, candidate)
    assert tag.startswith("not distilled into mlp: ")
    assert tag.endswith("; pruned by 50%")
    assert candidate.report.passed
    recipe = Manifest.load(candidate.version.local_folder or tmp_path).recipe
    assert recipe["model"] == {"hidden": [32, 16]}
    assert (recipe["train"]["epochs"], recipe["train"]["lr"]) == (CONFIG.epochs, CONFIG.lr)


@pytest.mark.long
def test_compress_of_a_model_that_is_not_prunable_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(ProjectError, "project.model_not_prunable", model="linear"):
        _build(tmp_path, monkeypatch, GatePolicy(), (Distill(student=ModelSpec(build="linear")), Prune(share=0.5)))
