"""From a fitted model to a version or a refusal, on a registry of its own: no cluster, the fit is made in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from cluster.errors import GateFailed
from cluster.names import CHAMPION
from cluster.registry import GATE_TAG
from cluster.settings import Settings
from cluster.values import Snapshot
from features.builders import derive
from features.definitions import Column, FeatureSet
from features.encoder import Encoder
from features.sources.source import Examples, Source
from features.split import TimeSplit
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.project import Location, Project
from rayloop.stages import train_version
from rayloop.stages.candidate import Recipe
from rayloop.stages.train_version import build_version
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part, trained
from trainers.card.model_card import ModelCard
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.fairness import FairnessPolicy
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.evaluation.slices import SlicePolicy

CONFIG = TrainConfig(epochs=2, batch_size=64, workers=1)
SPEC = ModelSpec(parameters={"hidden": (16,)})
AT = Column(name="at", kind="timestamp")


class InMemory(FrameView):
    """A frame without tables; its rows after the first 600 are for test."""

    def __init__(self) -> None:
        rows, more = frame(), frame(rows=1000, seed=7)
        tested = more.set_column(more.column_names.index("split"), "split", pa.array(["test"] * more.num_rows))
        self.rows = pa.concat_tables([rows, tested])
        self.snapshot = Snapshot(table="late.frame", id=1, rows=self.rows.num_rows)
        self.encoder = Encoder.fit(COLUMNS, part(rows, "train"))
        self.data = None  # type: ignore[assignment]


def _project(gate: GatePolicy) -> Project:
    start, validate, test, end = (datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4))
    return Project(
        name="late",
        task=TASKS["binary"],
        sources=(
            Source(
                name="rows",
                key=("colour",),
                columns=(*COLUMNS, AT),
                event_time="at",
                known_at="at",
                read=lambda: pytest.fail("nothing is read here"),
            ),
        ),
        features=FeatureSet(name="late", request=(*COLUMNS, AT), as_of=derive("as_of", pl.col("at"), "timestamp")),
        examples=Examples(source="rows", id="colour", label=pl.col("plain") > 0, label_known_at="at"),
        split=TimeSplit(start=start, validate_from=validate, test_from=test, end=end),
        model=SPEC,
        train=CONFIG,
        gate=gate,
        purpose="Say who will be late",
        limits=("Not for Mondays",),
    )


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[GatePolicy], ProjectContext]:
    fitted = trained(config=CONFIG)
    fitted.train_metrics.update(fitted.metrics)
    monkeypatch.setattr(train_version, "fit", lambda *_, **__: fitted)
    settings = Settings(home=tmp_path)
    return lambda gate: ProjectContext(
        _project(gate), Location(Path(__file__).parent, "late"), settings, ProgressConsole()
    )


def _card(context: ProjectContext, run_id: str) -> ModelCard:
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    folder = Path(client.download_artifacts(run_id, "card"))
    assert sorted(path.name for path in folder.iterdir()) == ["card.html", "card.json"]
    assert "<h2>Gate</h2>" in (folder / "card.html").read_text()
    return ModelCard.model_validate_json((folder / "card.json").read_text())


def _runs(context: ProjectContext) -> dict[str, str]:
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.info.run_name: run.info.run_id for run in found}


def test_a_version_has_a_card_that_says_what_it_is_and_what_it_was_compared_with(
    context: Callable[[GatePolicy], ProjectContext],
) -> None:
    gate = GatePolicy(
        margin=0.05,
        slices=SlicePolicy(columns=("colour",), min_rows=60, max_regression=1.5),
        fairness=FairnessPolicy(groups=("colour",), min_rows=60, max_error_difference=0.5),
        resamples=100,
    )
    at_work = context(gate)
    first = build_version(at_work, InMemory(), Recipe(SPEC, CONFIG), "first")
    at_work.registry.set_alias(first.version, CHAMPION)
    second = build_version(at_work, InMemory(), Recipe(SPEC, CONFIG.model_copy(update={"seed": 1})), "second")
    card = _card(at_work, second.version.run_id)
    assert card.checks == second.report.checks
    assert json.loads(second.version.tags[GATE_TAG])["checks"] == [c.model_dump() for c in card.checks]
    assert {"not worse than the champion", "slices of colour against the champion", "error by colour"} <= {
        c.name for c in card.checks
    }
    assert (card.lineage.champion, card.lineage.run_id) == ("late v1", second.version.run_id)
    assert [p.rows for p in card.parts] == [480, 120, 1000]
    assert card.limits[0] == "Not for Mondays"
    gaps = {f.name: f.missing for f in card.features}
    assert gaps["gappy"] == pytest.approx(0.3, abs=0.06)
    assert gaps["plain"] == gaps["pixels"] == 0
    assert _card(at_work, first.version.run_id).lineage.champion == ""


def test_a_refused_candidate_leaves_its_card_and_no_version(context: Callable[[GatePolicy], ProjectContext]) -> None:
    at_work = context(GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),), max_alone=0.1))
    with pytest.raises(GateFailed, match=r"alone has skill .* is not at most 0\.1; it is not registered") as refused:
        build_version(at_work, InMemory(), Recipe(SPEC, CONFIG), "leaky")
    assert str(refused.value).endswith(f"/#/runs/{_runs(at_work)['leaky (refused)']}")
    assert at_work.registry.versions("late") == []
    card = _card(at_work, _runs(at_work)["leaky (refused)"])
    assert not card.passed
    assert {c.name for c in card.checks if not c.passed} == {"auc", "no feature is the label"}


def test_an_override_stands_on_the_card(context: Callable[[GatePolicy], ProjectContext]) -> None:
    at_work = context(GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),)))
    made = build_version(at_work, InMemory(), Recipe(SPEC, CONFIG), "forced", override_gate="we want to see it fail")
    card = _card(at_work, made.version.run_id)
    assert (card.passed, card.override) == (False, "we want to see it fail")
