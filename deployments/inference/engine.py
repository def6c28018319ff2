"""Inference by champion and challenger, in batches, and the report of each answer.

The champion scores in this process. During a rollout, a challenger's share of the requests also goes to that
challenger's application, while the champion scores the same rows here: that gives paired evidence, and a fallback
when the challenger fails, is late or is missing. A caller never sees a challenger's error. Of other requests, the
challenger may score copies after the answer (copies.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from cluster.errors import RequestError
from cluster.names import Variant
from deployments.inference import variant_scoring
from deployments.inference.batcher import Batcher
from deployments.inference.challenger_protocol import ScoreResult
from deployments.inference.copies import Copier
from deployments.inference.explanation_worker import ExplanationWorker
from deployments.inference.predictor import ScoredBatch, summarize_error
from deployments.inference.rescoring import TOLERANCE
from deployments.inference.serving_state import ServingState
from deployments.inference.variant_scoring import ChampionPart, RoutedRequest
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import PredictionBatch
from deployments.telemetry.reporter import Reporter
from deployments.traffic_split import assign_variant
from features.attributions.explanation import RowExplanation

MAX_BATCH_ROWS = 1024
MAX_SHADOW_REQUESTS = 64
"""Most shadow requests that wait for the challenger. Beyond it none is copied; those left out are counted."""

EXPLAIN_TIMEOUT_S = 2.0
"""Time limit of a challenger's explanations; beyond it the champion answers and explains."""

# A call costs more than a row does: under load, few calls carry many requests.
_CONCURRENT_CHALLENGER_CALLS = 2
_CONCURRENT_REMOTE_CALLS = 4
"""Calls of a champion that is a Python model; requests beyond them wait, and form larger batches."""

_log = logging.getLogger(__name__)


class InferenceResult(NamedTuple):
    """What a caller gets: scores as ``cluster.values.Task`` describes them, and who computed them."""

    scores: np.ndarray
    version: str
    variant: Variant
    explanations: Sequence[RowExplanation] = ()
    """Of each row, where the caller asked for them."""


class ExplainOptions(NamedTuple):
    """What becomes of a request that is explained."""

    report: bool = True
    """Whether it is a prediction, which is logged; else it is no evidence for any variant."""
    store: bool = False
    """Whether the explanations are logged with it."""


class Engine:
    """Scores the requests of one replica, and reports the answers.

    Args:
        obeys: Whether an order to end the rollout would reach this replica (OrderLease).
    """

    def __init__(self, obeys: Callable[[], bool]) -> None:
        self._obeys = obeys
        self._local_champion: Batcher[RoutedRequest, ScoredBatch] = Batcher(self._score, _row_count, MAX_BATCH_ROWS)
        self._remote_champion: Batcher[RoutedRequest, ScoredBatch] = Batcher(
            self._score, _row_count, MAX_BATCH_ROWS, _CONCURRENT_REMOTE_CALLS
        )
        # By version: a challenger that hangs must not delay the others.
        self._challengers: defaultdict[str, Batcher[RoutedRequest, ScoreResult]] = defaultdict(
            lambda: Batcher(
                variant_scoring.score_with_challenger, _row_count, MAX_BATCH_ROWS, _CONCURRENT_CHALLENGER_CALLS
            )
        )
        self._shadows: set[asyncio.Task[None]] = set()
        self._explanations = ExplanationWorker()
        self._copier = Copier(lambda state, answer: self._report(state, answer, announced=True))
        self._state_without_split: tuple[ServingState, ServingState] | None = None
        self._telemetry: Reporter | None = None

    async def infer(
        self, state: ServingState, id: str, rows: RequestRows, key: str | None, pinned: str | None
    ) -> InferenceResult:
        """Answer one request.

        Args:
            state: What is served.
            id: The request's id.
            rows: Its rows.
            key: Its routing key; the id by default.
            pinned: Version that a tester has pinned (``ServingState.pinned_version``).

        Raises:
            RequestError: 400 when the request is bad, 500 when the model failed.
        """
        request = self._route(state, id, rows, key or id, pinned)
        if request.challenger is None:
            return _champion_result(state, await self._champion(request))
        result = asyncio.ensure_future(self._score_with_challenger(request, request.challenger))
        try:
            scored = await self._champion(request)
        except BaseException:
            result.cancel()
            raise
        if state.config.split is not None and state.config.split.shadow:
            self._report_shadow(request, scored, result)
            return _champion_result(state, scored)
        answer = variant_scoring.build_answer([request], scored, await result)
        self._report(state, answer)
        if answer.scores is None:
            raise RequestError("request.model_failed", error=scored.error)
        return InferenceResult(answer.scores, answer.version, answer.variant)

    async def explain(
        self,
        state: ServingState,
        id: str,
        rows: RequestRows,
        key: str | None,
        pinned: str | None,
        options: ExplainOptions,
    ) -> InferenceResult:
        """Answer one request, and explain the scores of the variant that answers.

        A challenger whose explanation fails, or is missing, does not answer: the champion does, as for its scores.

        Args:
            state: What is served.
            id: The request's id.
            rows: Its rows.
            key: Its routing key; the id by default.
            pinned: Version that a tester has pinned.
            options: What becomes of it.

        Raises:
            RequestError: As ``infer`` and ``ExplanationWorker.admit`` do.
        """
        async with self._explanations.admit(state.champion, rows.size):
            request = self._route(state, id, rows, key or id, pinned)._replace(explained=True)
            split = request.state.config.split
            shadow = split is not None and split.shadow
            if request.challenger is None or (shadow and not options.report):
                return await self._explain_with_champion(request, options)
            if shadow:
                scoring = asyncio.ensure_future(self._score_with_challenger(request, request.challenger))
                return await self._explain_with_champion(request, options, scoring)
            return await self._explain_with_challenger(request, request.challenger, options)

    def start_telemetry(self, model: str, under_way: Callable[[], int]) -> None:
        """Start reporting, before the first answer; takes seconds.

        Args:
            model: Name of the model.
            under_way: Returns the number of requests in progress.
        """
        if self._telemetry is None:
            self._telemetry = Reporter(model, under_way)

    @property
    def telemetry(self) -> Reporter:
        """This replica's reports."""
        assert self._telemetry is not None
        return self._telemetry

    def close(self, within_s: float) -> None:
        """Send the remaining reports."""
        if self._telemetry is not None:
            self._copier.close()
            self._telemetry.close(within_s)

    async def _champion(self, request: RoutedRequest) -> ScoredBatch:
        """The champion's scores of a request."""
        batcher = self._remote_champion if request.state.champion.is_remote else self._local_champion
        return await batcher(request)

    def _route(self, state: ServingState, id: str, rows: RequestRows, key: str, pinned: str | None) -> RoutedRequest:
        split = state.config.split
        challenger = assign_variant(split, key, pinned)
        if len(self._shadows) >= MAX_SHADOW_REQUESTS and split is not None and split.shadow:
            self.telemetry.record_dropped_copies(challenger is not None)
            state, challenger = self._without_split(state), None
        elif split is not None and pinned is None and not self._obeys():
            # A challenger's harm could not be ended here.
            state, challenger = self._without_split(state), None
        return RoutedRequest(state, id, key, pinned is not None, rows, challenger, time.time_ns() // 1000)

    def _without_split(self, state: ServingState) -> ServingState:
        """The state without its split: while no request is copied, none is evidence, for either variant.

        Leaving out only the challenger's requests would bias the split.
        """
        if self._state_without_split is None or self._state_without_split[0] is not state:
            plain = state._replace(config=state.config.model_copy(update={"split": None}))
            self._state_without_split = state, plain
        return self._state_without_split[1]

    async def _score(self, requests: Sequence[RoutedRequest]) -> list[ScoredBatch | Exception]:
        """Score a batch, state by state: a swap may fall between two of its requests."""
        results: list[ScoredBatch | Exception] = []
        for _, together in groupby(requests, key=lambda request: id(request.state)):
            group = list(together)
            parts, scored = await variant_scoring.score_with_champion(group)
            results += scored
            for part in parts:
                self._report_part(group[0].state, part)
        return results

    def _report_part(self, state: ServingState, part: ChampionPart) -> None:
        """Report requests that the champion answers, those of which a challenger gets a copy later."""
        split = state.config.split
        if split is None or not split.copies or not state.config.report:
            self._report(state, variant_scoring.build_answer(part.requests, part.scored))
            return
        division = self._copier.divide(state, part)
        self.telemetry.announce_predictions(division.copied_rows)
        self.telemetry.record_dropped_copies(division.dropped)
        for answer in division.answers:
            self._report(state, answer)

    async def _score_with_challenger(self, request: RoutedRequest, challenger: str) -> ScoreResult:
        """The challenger's result within its time limit; any failure is a result, not an exception."""
        split = request.state.config.split
        assert split is not None
        try:
            return await asyncio.wait_for(self._challengers[challenger](request), split.timeout_s)
        except Exception as error:
            return variant_scoring.failure_result(split, challenger, error)

    async def _explain_with_champion(
        self, request: RoutedRequest, options: ExplainOptions, shadow: asyncio.Future[ScoreResult] | None = None
    ) -> InferenceResult:
        """Answer with the champion; ``shadow`` becomes the result of a challenger that only scores a copy."""
        try:
            scored = await self._champion(request)
            explanations = await self._explain_scored(request, scored)
        except BaseException:
            if shadow is not None:
                shadow.cancel()
            raise
        stored = _with_stored(scored, explanations, options)
        if shadow is not None:
            self._report_shadow(request, stored, shadow)
        elif options.report:
            self._report_part(request.state, ChampionPart([request], stored))
        return _champion_result(request.state, scored)._replace(explanations=explanations)

    async def _explain_with_challenger(
        self, request: RoutedRequest, challenger: str, options: ExplainOptions
    ) -> InferenceResult:
        """Answer with the challenger where it scores and explains; else with the champion."""
        scoring = asyncio.ensure_future(self._score_with_challenger(request, challenger))
        try:
            scored = await self._champion(request)
        except BaseException:
            scoring.cancel()
            raise
        result = await scoring
        explanations = await self._challenger_explanations(request, challenger, result)
        # A prediction is answered by the challenger although it does not explain, where the champion failed.
        by_champion = not explanations and (scored.scores is not None or not options.report)
        explanations = explanations or await self._explain_scored(request, scored)
        stored = _with_stored(scored, explanations, options)
        answer = variant_scoring.build_answer([request], stored, result, champion_answers=by_champion)
        if options.report:
            self._report(request.state, answer)
        if answer.scores is None:
            raise RequestError("request.model_failed", error=scored.error)
        return InferenceResult(answer.scores, answer.version, answer.variant, explanations)

    async def _explain_scored(self, request: RoutedRequest, scored: ScoredBatch) -> list[RowExplanation]:
        """The champion's explanations; none where it has no scores."""
        if scored.scores is None or scored.frame is None:
            return []
        return await self._explanations.explain(request.state.champion, scored.frame, scored.scores)

    async def _challenger_explanations(
        self, request: RoutedRequest, challenger: str, result: ScoreResult
    ) -> list[RowExplanation]:
        """The challenger's explanations; none where it fails, which is no evidence against its scores.

        None either where its features have changed since it scored: they would explain another score.
        """
        if result.scores is None:
            return []
        try:
            calling = variant_scoring.call_explainer(request, challenger)
            explanations = await asyncio.wait_for(calling, EXPLAIN_TIMEOUT_S)
        except Exception as error:
            _log.warning("challenger v%s does not explain: %s", challenger, summarize_error(error))
            return []
        explained = np.array([each.score for each in explanations])
        scores = result.scores.reshape(request.rows.size, -1).max(axis=1)
        same = len(explained) == len(scores) and np.allclose(explained, scores, rtol=TOLERANCE, atol=TOLERANCE)
        return explanations if same else []

    def _report_shadow(self, request: RoutedRequest, scored: ScoredBatch, result: asyncio.Future[ScoreResult]) -> None:
        """Report a shadowed request once the challenger's result is there."""

        async def report() -> None:
            self._report(request.state, variant_scoring.build_answer([request], scored, await result))

        task = asyncio.get_running_loop().create_task(report())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    def _report(self, state: ServingState, answer: PredictionBatch, announced: bool = False) -> None:
        if state.config.report:
            columns = state.champion.manifest.features.columns
            self.telemetry.record_predictions(answer, columns, state.config.profile_window_s, announced)


def _row_count(request: RoutedRequest) -> int:
    return request.rows.size


def _with_stored(scored: ScoredBatch, explanations: Sequence[RowExplanation], options: ExplainOptions) -> ScoredBatch:
    """Scores with the explanations that are logged with them."""
    if not options.store or not explanations:
        return scored
    return scored._replace(explanations=[each.model_dump_json() for each in explanations])


def _champion_result(state: ServingState, scored: ScoredBatch) -> InferenceResult:
    if scored.scores is None:
        raise RequestError("request.model_failed", error=scored.error)
    return InferenceResult(scored.scores, state.champion.version, "champion")
