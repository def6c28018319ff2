"""A model that a race chose, from its fit to its registered version, within the serving budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.errors import GateFailed, ProjectError
from cluster.settings import Settings
from features.manifest import MODEL_FILE, Manifest
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.retraining.warm_start import load_warm_start
from rayloop.stages import train_version
from rayloop.stages.candidate import Candidate, Recipe
from rayloop.stages.train_version import SELECTION, build_version
from tests.factories.errors import raises
from tests.factories.rayloop.projects import InMemoryFrame, late_project
from tests.factories.trainers.boosted import boosted
from tests.factories.trainers.raced import QUICK
from trainers.card.model_card import ModelCard
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.bootstrap import Interval
from trainers.evaluation.quality_gate import GatePolicy
from trainers.evaluation.serving_budget import MEBIBYTE, Budget
from trainers.export.onnx_export import save_model
from trainers.loop.trainer import FitResult
from trainers.selection.selection import Attempt, Ensemble, Selection

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fitted() -> FitResult:
    """Trees of both libraries that answer together, as a race may choose them."""
    members = [boosted(spec=ModelSpec(build=build, parameters={"rounds": 30})) for build in ("lightgbm", "xgboost")]
    attempts = tuple(
        Attempt(candidate=i, family=each.spec.name, settings={}, rung=0, rows=480, seconds=1, loss=0.3 + i / 10)
        for i, each in enumerate(members)
    )
    corrected = Interval(value=0.35, low=0.25, high=0.45)
    selection = Selection(
        attempts=attempts,
        members={i: each.spec.parameters for i, each in enumerate(members)},
        ensembles=(
            Ensemble(weights={0: 0.75, 1: 0.25}, loss=0.25, corrected=corrected, metrics=members[1].metrics),
            Ensemble(weights={0: 1.0}, loss=0.3, corrected=corrected, metrics=members[0].metrics),
        ),
        loss_name="log loss",
        minutes=1,
        seconds=9,
        validation_rows=120,
    )
    state = selection.to_state({i: each.state for i, each in enumerate(members)})
    served = members[1].metrics
    return replace(members[0], spec=QUICK, state=state, metrics=served, train_metrics=dict(served))


def _selection(fitted: FitResult) -> Selection:
    assert fitted.selection is not None
    return fitted.selection


def _context(folder: Path, budget: Budget) -> ProjectContext:
    project = replace(late_project(GatePolicy(budget=budget)), model=QUICK, train=TrainConfig(workers=1))
    return ProjectContext(project, Location(Path(__file__).parent, "late"), Settings(home=folder), ProgressConsole())


def _build(context: ProjectContext, fitted: FitResult, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    monkeypatch.setattr(train_version, "fit", lambda *_, **__: fitted)
    return build_version(context, InMemoryFrame(), Recipe(QUICK, TrainConfig(workers=1)), "best")


def _card(context: ProjectContext, candidate: Candidate) -> ModelCard:
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    folder = Path(client.download_artifacts(candidate.version.run_id, "card"))
    assert "<h2>Selection</h2>" in (folder / "card.html").read_text()
    return ModelCard.from_stored((folder / "card.json").read_bytes())


def _size(result: FitResult, folder: Path) -> float:
    save_model(result.build_model(), result.inputs, folder / MODEL_FILE)
    return (folder / MODEL_FILE).stat().st_size / MEBIBYTE


def test_ensemble_without_a_budget_is_registered_with_its_record(
    tmp_path: Path, fitted: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(tmp_path, Budget())
    candidate = _build(context, fitted, monkeypatch)
    selection = _selection(fitted)
    assert candidate.version.tags[SELECTION] == selection.describe()
    assert _card(context, candidate).selection == selection
    recipe = Manifest.load(candidate.version.local_folder or tmp_path).recipe
    assert {name: member["weight"] for name, member in recipe["chosen"].items()} == {
        name: member["weight"] for name, member in selection.manifest().items()
    }
    parity = next(check for check in candidate.report.checks if "parity" in check.name)
    assert parity.value <= 1e-5
    with raises(ProjectError, "project.auto_chooses", what="--from-version"):
        load_warm_start(context, candidate.version.version, QUICK, TrainConfig())


def test_members_are_dropped_until_the_graph_is_within_the_budget(
    tmp_path: Path, fitted: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = _selection(fitted)
    smaller = selection.without_largest()
    whole, part = _size(fitted, tmp_path), _size(fitted.with_selection(smaller), tmp_path)
    assert part < whole
    context = _context(tmp_path, Budget(max_mib=(whole + part) / 2))
    candidate = _build(context, fitted, monkeypatch)
    card = _card(context, candidate)
    assert card.selection == smaller
    assert card.validation_metrics == pytest.approx(smaller.served.metrics)
    assert card.size / MEBIBYTE == pytest.approx(part)
    assert candidate.version.tags[SELECTION] == smaller.describe()


def test_best_single_model_above_the_budget_fails_the_gate(
    tmp_path: Path, fitted: FitResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(tmp_path, Budget(max_mib=1e-5))
    with raises(GateFailed, "gate.failed", checks=["size"]):
        _build(context, fitted, monkeypatch)
