"""From a fitted model to a registered or refused version, without a cluster: this process fits the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient

from cluster.errors import GateFailed, ProjectError, VersionNotFound
from cluster.names import CHAMPION
from cluster.registry import GATE_TAG
from cluster.settings import Settings
from features.builders import derive
from features.definitions import Column, FeatureSet
from features.encoder import Encoder
from features.manifest import Manifest
from features.split import PARTS
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.retraining.warm_start import STARTED_FROM, load_warm_start
from rayloop.stages import evaluate_candidate, train_version
from rayloop.stages.candidate import Recipe
from rayloop.stages.train_version import build_version
from tests.factories.deployments.bundles import register
from tests.factories.errors import raises
from tests.factories.rayloop.projects import CONFIG, SPEC, InMemoryFrame, late_project
from tests.factories.trainers.frames import COLUMNS
from tests.factories.trainers.training import trained
from trainers.card.model_card import ModelCard
from trainers.config import ModelSpec, Oversample
from trainers.evaluation.fairness import FairnessPolicy, MitigationResult
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.evaluation.slices import SlicePolicy
from trainers.loop.trainer import FitRequest


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[GatePolicy], ProjectContext]:
    fitted = replace(trained(config=CONFIG), synthetic_rows=1234)
    fitted.train_metrics.update(fitted.metrics)
    monkeypatch.setattr(train_version, "fit", lambda *_, **__: fitted)
    settings = Settings(home=tmp_path)
    return lambda gate: ProjectContext(
        late_project(gate), Location(Path(__file__).parent, "late"), settings, ProgressConsole()
    )


def _card(context: ProjectContext, run_id: str) -> ModelCard:
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    folder = Path(client.download_artifacts(run_id, "card"))
    assert sorted(path.name for path in folder.iterdir()) == ["card.html", "card.json"]
    page = (folder / "card.html").read_text()
    assert "<h2>Gate</h2>" in page
    assert "Trained on 1,234 synthetic rows" in page
    return ModelCard.model_validate_json((folder / "card.json").read_text())


def _runs(context: ProjectContext) -> dict[str, str]:
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.info.run_name: run.info.run_id for run in runs}


@pytest.mark.long
def test_build_version_logs_a_card_with_checks_and_lineage(
    context: Callable[[GatePolicy], ProjectContext],
) -> None:
    gate = GatePolicy(
        margin=0.05,
        slices=SlicePolicy(columns=("color",), min_rows=60, max_regression=1.5),
        fairness=FairnessPolicy(groups=("color",), min_rows=60, max_error_difference=0.5),
        resamples=100,
    )
    at_work = context(gate)
    first = build_version(at_work, InMemoryFrame(), Recipe(SPEC, CONFIG), "first")
    at_work.registry.set_alias(first.version, CHAMPION)
    second = build_version(at_work, InMemoryFrame(), Recipe(SPEC, CONFIG.model_copy(update={"seed": 1})), "second")
    card = _card(at_work, second.version.run_id)
    assert card.checks == second.report.checks
    assert json.loads(second.version.tags[GATE_TAG])["checks"] == [c.model_dump() for c in card.checks]
    assert {"not worse than the champion", "slices of color against the champion", "error by color"} <= {
        c.name for c in card.checks
    }
    assert (card.lineage.champion, card.lineage.run_id) == ("late v1", second.version.run_id)
    assert [p.rows for p in card.parts] == [480, 120, 1000]
    assert [p.purged for p in card.parts] == [3, 0, 3]
    logged = MlflowClient(tracking_uri=at_work.settings.mlflow_uri).get_run(second.version.run_id).data.metrics
    assert [logged[f"purged_{part}"] for part in PARTS] == [3.0, 0.0, 3.0]
    assert card.limits[0] == "Not for Mondays"
    assert card.synthetic_rows == 1234
    gaps = {f.name: f.missing for f in card.features}
    assert gaps["gappy"] == pytest.approx(0.3, abs=0.06)
    assert gaps["plain"] == gaps["pixels"] == 0
    assert _card(at_work, first.version.run_id).lineage.champion == ""


@pytest.mark.long
def test_build_version_of_a_failing_candidate_logs_its_card_and_no_version(
    context: Callable[[GatePolicy], ProjectContext],
) -> None:
    at_work = context(GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),), max_alone=0.1))
    with raises(GateFailed, "gate.failed", candidate="leaky", checks=["auc", "no feature is the label"]) as refused:
        build_version(at_work, InMemoryFrame(), Recipe(SPEC, CONFIG), "leaky")
    assert str(refused.value.fields["url"]).endswith(f"/#/runs/{_runs(at_work)['leaky (refused)']}")
    assert at_work.registry.versions("late") == []
    card = _card(at_work, _runs(at_work)["leaky (refused)"])
    assert not card.passed
    assert {c.name for c in card.checks if not c.passed} == {"auc", "no feature is the label"}


@pytest.mark.long
def test_build_version_with_override_records_it_on_the_card(context: Callable[[GatePolicy], ProjectContext]) -> None:
    at_work = context(GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),)))
    forced = build_version(
        at_work, InMemoryFrame(), Recipe(SPEC, CONFIG), "forced", override_gate="we want to see it fail"
    )
    card = _card(at_work, forced.version.run_id)
    assert (card.passed, card.override) == (False, "we want to see it fail")


@pytest.mark.long
def test_card_of_a_reweighed_version_has_the_groups_of_the_same_recipe_without_weights(
    context: Callable[[GatePolicy], ProjectContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = trained(config=CONFIG.model_copy(update={"epochs": 1})), list[tuple[FitRequest, object]]()
    monkeypatch.setattr(
        evaluate_candidate, "fit", lambda request, data, *_, **__: asked.append((request, data)) or plain
    )

    def build(name: str, **changes: object) -> ModelCard:
        fairness = FairnessPolicy(groups=("color",), min_rows=60, mitigate="reweigh").model_copy(update=changes)
        at_work, frame = context(GatePolicy(fairness=fairness)), InMemoryFrame()
        frame.reweighed_by, frame.unweighted_data = "color", "without weights"  # type: ignore[assignment]
        return _card(at_work, build_version(at_work, frame, Recipe(SPEC, CONFIG), name).version.run_id)

    card = build("compared")
    ((request, data),) = asked
    assert (request.spec, request.config, data) == (SPEC, CONFIG, "without weights")
    mitigation, now = card.assessment.mitigation, card.assessment.fairness
    assert mitigation is not None
    assert (mitigation.method, [each.column for each in mitigation.groups]) == ("reweigh", ["color"])
    # The model without weights is another one: it has a figure of its own for each group.
    assert mitigation.groups[0].by_group.keys() == now[0].by_group.keys()
    assert mitigation.groups[0].error_difference != now[0].error_difference
    assert mitigation.metrics["auc"] != card.assessment.metrics["auc"].value
    assert build("alone", compare=False).assessment.mitigation == MitigationResult(method="reweigh")
    assert len(asked) == 1


@pytest.mark.long
def test_version_is_continued_with_its_weights_encoder_and_scale_and_says_so(
    context: Callable[[GatePolicy], ProjectContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = context(GatePolicy())
    first = build_version(at_work, InMemoryFrame(), Recipe(SPEC, CONFIG), "first")
    start = load_warm_start(at_work, "1", SPEC, CONFIG)
    fit, asked = train_version.fit, list[FitRequest]()
    monkeypatch.setattr(train_version, "fit", lambda request, *rest, **more: asked.append(request) or fit())
    frame = InMemoryFrame()
    frame.encoder = Encoder.fit(COLUMNS, frame.rows.slice(0, 5))
    second = build_version(at_work, frame, Recipe(SPEC, CONFIG, start=start), "second")
    (request,) = asked
    fitted = fit()
    assert request.start is not None
    assert all((request.start[name] == value).all() for name, value in fitted.state.items())
    assert (request.inputs, request.encoder) == (fitted.inputs, InMemoryFrame().encoder)
    assert second.version.version != first.version.version
    assert second.version.tags[STARTED_FROM] == "v1"
    assert STARTED_FROM not in first.version.tags
    assert _card(at_work, second.version.run_id).recipe["model"]["started_from"] == "v1"
    # The same start on the same rows is the same version; from the beginning it is the first one.
    again = build_version(at_work, frame, Recipe(SPEC, CONFIG, start=start), "again")
    assert again.version.version == second.version.version


@pytest.mark.long
def test_version_with_other_features_or_without_weights_is_not_continued(
    context: Callable[[GatePolicy], ProjectContext], tmp_path: Path
) -> None:
    at_work = context(GatePolicy())
    first = build_version(at_work, InMemoryFrame(), Recipe(SPEC, CONFIG), "first").version
    bundle = at_work.registry.fetch(first)
    at = Column(name="at", kind="timestamp")
    fewer = FeatureSet(name="late", request=(*COLUMNS[1:], at), as_of=derive("as_of", pl.col("at"), "timestamp"))
    other = Manifest.load(bundle).model_copy(update={"features": fewer, "feature_hash": fewer.content_hash})
    copied = tmp_path / "copied"
    shutil.copytree(bundle, copied)
    register(at_work.registry, "late", copied)
    with raises(VersionNotFound, "registry.version_without_weights", version="2"):
        load_warm_start(at_work, "2", SPEC, CONFIG)
    other.save(copied)
    register(at_work.registry, "late", copied)
    with raises(ProjectError, "project.warm_start_features", version="3", columns=["plain (number)"]):
        load_warm_start(at_work, "3", SPEC, CONFIG)
    with raises(ProjectError, "project.warm_start_model", version="1"):
        load_warm_start(at_work, "1", ModelSpec(build="linear"), CONFIG)
    with raises(ProjectError, "project.warm_start_estimator", model="sklearn"):
        load_warm_start(at_work, "1", ModelSpec(build="sklearn"), CONFIG)
    with raises(ProjectError, "project.warm_start_minority", version="1"):
        load_warm_start(at_work, "1", SPEC, CONFIG.model_copy(update={"minority": Oversample()}))
