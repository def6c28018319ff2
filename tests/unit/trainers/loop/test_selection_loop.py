"""The race of models: what it tries and keeps, and that it stops in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.errors import DataError, ProjectError
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import frame, part
from tests.factories.trainers.raced import QUICK, raced
from tests.factories.trainers.training import rows
from trainers.loop import boosting_loop
from trainers.loop.train_events import AttemptResult, BlockResult, EpochResult, TrainResult
from trainers.loop.validation import measure
from trainers.selection.selection import Selection

pytestmark = pytest.mark.long


def _require(result_selection: Selection | None) -> Selection:
    assert result_selection is not None
    return result_selection


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_race_chooses_a_model_that_is_as_good_as_its_record_says(kind: TaskKind) -> None:
    epochs = list[EpochResult]()
    result = raced(kind, on_epoch=epochs.append)
    selection = _require(result.selection)
    assert {attempt.family for attempt in selection.attempts} == {"lightgbm", "linear"}
    assert selection.served.loss == min(each.loss for each in selection.ensembles)
    best = min(attempt.loss for attempt in selection.attempts if attempt.loss is not None)
    assert selection.ensembles[-1].loss == pytest.approx(best)
    assert selection.served.corrected.low < selection.served.corrected.high
    assert list(selection.served.weights) == [n for n in selection.served.weights if n in selection.members]
    held_out = rows(part(frame(kind), "validation"), result.encoder)
    measured = measure(result.build_model(), result.task, held_out)
    assert result.metrics == pytest.approx(measured, abs=1e-5)
    assert epochs[-1].best
    assert isinstance(epochs[-1], AttemptResult)
    assert epochs[-1].name == selection.describe()
    assert len(epochs) == len(selection.attempts) + 1
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))


def test_race_that_is_out_of_time_at_once_still_leaves_a_model() -> None:
    result = raced(step=100.0)
    (attempt,) = _require(result.selection).attempts
    assert (attempt.family, attempt.candidate) == ("lightgbm", 0)
    assert len(result.epochs) == 2
    assert result.metrics["auc"] > 0.7


def test_module_that_is_out_of_time_is_validated_as_it_is() -> None:
    spec = QUICK.model_copy(update={"parameters": {"families": ("mlp",)}})
    result = raced(spec=spec, step=100.0)
    assert np.isfinite(_require(result.selection).served.loss)


def test_trees_end_with_the_round_in_which_time_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, train = list[int](), boosting_loop.train

    def record(*arguments: Any, **options: Any) -> TrainResult:
        outcome = train(*arguments, **options)
        rounds.extend(epoch.rounds for epoch in outcome.epochs if isinstance(epoch, BlockResult))
        return outcome

    monkeypatch.setattr(boosting_loop, "train", record)
    raced(spec=QUICK.model_copy(update={"parameters": {"families": ("lightgbm",)}}), step=100.0)
    assert rounds == [1]


def test_candidates_that_fail_are_recorded_and_the_race_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no leaves left")

    monkeypatch.setattr(boosting_loop, "train", refuse)
    selection = _require(raced().selection)
    failed = [attempt for attempt in selection.attempts if attempt.loss is None]
    assert failed
    assert {attempt.family for attempt in failed} == {"lightgbm"}
    assert {attempt.error for attempt in failed} == {"ValueError: no leaves left"}
    assert not selection.served.weights.keys() & {attempt.candidate for attempt in failed}
    with raises(DataError, "data.no_candidate_trained", reason="ValueError: no leaves left"):
        raced(spec=QUICK.model_copy(update={"parameters": {"families": ("lightgbm",)}}))


@pytest.mark.parametrize("family", ["lightgbm", "xgboost", "mlp", "linear"])
def test_weights_of_rows_reach_every_kind_of_candidate(family: str) -> None:
    spec = QUICK.model_copy(update={"parameters": {"families": (family,), "members": 1}})
    table = part(frame("binary"), "validation")
    result = raced(spec=spec, weigh=lambda labels: np.where(labels == 1, 0.05, 1.0).astype(np.float32))
    # The race stops trainings by validation rows, which count alike; without weights, both means are equal.
    score = result.build_model().score(result.encoder.encode(table)).mean()
    assert score < np.asarray(table["label"]).mean() - 0.05


def test_library_that_is_named_and_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises(ProjectError, "project.library_missing", package="xgboost"):
        raced(spec=QUICK.model_copy(update={"parameters": {"families": ("xgboost",)}}))
