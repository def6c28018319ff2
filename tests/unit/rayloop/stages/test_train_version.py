"""From a fitted model to a registered or refused version, without a cluster: this process fits the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.errors import GateFailed
from cluster.names import CHAMPION
from cluster.registry import GATE_TAG
from cluster.settings import Settings
from features.split import PARTS
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.stages import train_version
from rayloop.stages.candidate import Recipe
from rayloop.stages.train_version import build_version
from tests.factories.errors import raises
from tests.factories.rayloop.projects import CONFIG, SPEC, InMemoryFrame, late_project
from tests.factories.trainers.training import trained
from trainers.card.model_card import ModelCard
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.evaluation.slices import SlicePolicy


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[GatePolicy], ProjectContext]:
    fitted = trained(config=CONFIG)
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
    assert "<h2>Gate</h2>" in (folder / "card.html").read_text()
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
