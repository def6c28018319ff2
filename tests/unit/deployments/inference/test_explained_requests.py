"""Requests with explanations: who explains, what is logged, and which are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cluster.errors import RequestError
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference import explanation_worker
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.engine import Engine, ExplainOptions, InferenceResult
from deployments.inference.predictor import Scorer
from deployments.inference.serving_state import ServingState
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import from_ipc, prediction_rows
from features.attributions.explanation import RowExplanation
from tests.factories.deployments.bundles import Slope, add_explainer, write_bundle
from tests.factories.deployments.instant_champion import RecordingReporter
from tests.factories.deployments.serving_state import build_state
from tests.factories.errors import raises

REPORT, STORE, SILENT = ExplainOptions(), ExplainOptions(store=True), ExplainOptions(report=False)


def _request(*distances: float) -> RequestRows:
    count = len(distances)
    values = (list(distances), ["AA"] * count, ["2024-05-01T10:00:00Z"] * count)
    return RequestRows(count, values, ("distance", "carrier", "departs"))


def _load(folder: Path, slope: float, version: str) -> Scorer:
    bundle = write_bundle(folder / version, Slope(slope))
    if version != "3":
        add_explainer(bundle)
    return Scorer(
        ModelVersion(model="trips", version=version, run_id="r", bundle_uri=bundle.as_uri()), Settings(home=folder)
    )


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    """Version 3 has no explainer."""
    folder = tmp_path_factory.mktemp("home")
    return {version: _load(folder, slope, version) for version, slope in (("1", 1.5), ("2", 2.0), ("3", 2.0))}


class LocalChallenger:
    """A challenger in this process."""

    def __init__(self, scorer: Scorer, explanations: list[str] | OSError | None = None) -> None:
        self._scorer, self._explanations = scorer, explanations

    async def score(self, request: ScoreRequest) -> list[ScoreResult]:
        batches = await self._scorer.score_table(from_ipc(request.rows), request.sizes, request.now_us)
        return [ScoreResult("2", batch.scores, 1.0, None) for batch in batches]

    async def explain(self, request: ScoreRequest) -> list[str]:
        if isinstance(self._explanations, OSError):
            raise self._explanations
        if self._explanations is not None:
            return self._explanations
        [batch] = await self._scorer.score_table(from_ipc(request.rows), request.sizes, request.now_us)
        assert batch.frame is not None
        assert batch.scores is not None
        return [each.model_dump_json() for each in self._scorer.explain(batch.frame, batch.scores)]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> RecordingReporter:
    reporter = RecordingReporter()
    monkeypatch.setattr("deployments.inference.engine.Reporter", lambda model, count_in_flight: reporter)
    return reporter


def _state(scorers: dict[str, Scorer], champion: str = "1", challenger: LocalChallenger | None = None) -> ServingState:
    state = build_state("2", share=1.0) if challenger else build_state()
    return state._replace(
        champion=cast(Any, scorers[champion]), challengers={"2": cast(Any, challenger)} if challenger else {}
    )


def _run(ask: Callable[[Engine], Awaitable[InferenceResult]]) -> InferenceResult:
    async def run() -> InferenceResult:
        engine = Engine(lambda: True)
        engine.start_telemetry("trips", lambda: 0)
        return await ask(engine)

    return asyncio.run(run())


def _explain(state: ServingState, options: ExplainOptions, *distances: float) -> InferenceResult:
    return _run(lambda engine: engine.explain(state, "q", _request(*distances), None, None, options))


def test_champion_explains_its_scores(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    result = _explain(_state(scorers), REPORT, 0.5, -1.0)
    assert (result.version, result.variant) == ("1", "champion")
    assert [each.total for each in result.explanations] == pytest.approx(result.scores.tolist(), abs=1e-5)
    assert [each.reasons[0].feature for each in result.explanations] == ["distance", "distance"]
    [answer] = reports.answers
    assert answer.explanations is None
    np.testing.assert_array_equal(answer.scores, result.scores)


def test_explained_score_equals_the_plain_one(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    plain = _run(lambda engine: engine.infer(_state(scorers), "q", _request(0.5), None, None))
    assert _explain(_state(scorers), REPORT, 0.5).scores.tolist() == plain.scores.tolist()


def test_stored_explanations_are_logged_with_their_rows(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    result = _explain(_state(scorers), STORE, 0.5, -1.0)
    logged = prediction_rows(reports.answers, "b").column("explanation").to_pylist()
    assert [RowExplanation.from_stored(text) for text in logged] == list(result.explanations)


def test_explanations_without_a_prediction_are_not_reported(
    scorers: dict[str, Scorer], reports: RecordingReporter
) -> None:
    challenger = LocalChallenger(scorers["2"])
    for state in (_state(scorers), _state(scorers, challenger=challenger)):
        assert len(_explain(state, SILENT, 0.5).explanations) == 1
    assert reports.answers == []


def test_challenger_that_answers_explains(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    result = _explain(_state(scorers, challenger=LocalChallenger(scorers["2"])), STORE, 0.5)
    assert (result.version, result.variant) == ("2", "challenger")
    assert result.explanations[0].total == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-4)
    row = prediction_rows(reports.answers, "b").to_pylist()[0]
    assert (row["variant"], row["score"]) == ("challenger", row["challenger_score"])
    assert RowExplanation.from_stored(row["explanation"]) == result.explanations[0]


@pytest.mark.parametrize("answer", [[], OSError()], ids=["no explainer", "failure"])
def test_champion_answers_for_a_challenger_that_does_not_explain(
    answer: list[str] | OSError, scorers: dict[str, Scorer], reports: RecordingReporter
) -> None:
    """The challenger's scores stay evidence, and it has no error."""
    challenger = LocalChallenger(scorers["2"], answer)
    result = _explain(_state(scorers, challenger=challenger), REPORT, 0.5)
    assert (result.version, result.variant) == ("1", "champion")
    assert result.explanations[0].total == pytest.approx(float(result.scores[0]), abs=1e-5)
    row = prediction_rows(reports.answers, "b").to_pylist()[0]
    assert (row["assigned"], row["variant"], row["error"]) == ("challenger", "champion", None)
    assert row["score"] == row["champion_score"] != row["challenger_score"]


def test_version_without_explainer_is_refused_before_it_scores(
    scorers: dict[str, Scorer], reports: RecordingReporter
) -> None:
    with raises(RequestError, "request.not_explainable", version="3"):
        _explain(_state(scorers, champion="3"), REPORT, 0.5)
    assert reports.answers == []


def test_too_many_rows_are_refused(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    limit = explanation_worker.MAX_EXPLAINED_ROWS
    with raises(RequestError, "request.too_many_explained_rows", rows=limit + 1, limit=limit):
        _explain(_state(scorers), REPORT, *([0.5] * (limit + 1)))


def test_requests_beyond_those_that_wait_are_refused(scorers: dict[str, Scorer], reports: RecordingReporter) -> None:
    limit, state = explanation_worker.MAX_WAITING, _state(scorers)

    async def run() -> list[InferenceResult | BaseException]:
        engine = Engine(lambda: True)
        engine.start_telemetry("trips", lambda: 0)
        asked = (engine.explain(state, f"q{i}", _request(0.5), None, None, SILENT) for i in range(limit + 3))
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(run())
    refused = [result for result in results if isinstance(result, RequestError)]
    assert [error.code for error in refused] == ["request.explanations_busy"] * 3
    assert refused[0].headers == {"retry-after": "1"}
    assert sum(isinstance(result, InferenceResult) for result in results) == limit
