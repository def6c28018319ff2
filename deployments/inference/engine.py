"""Inference by champion and challenger, in batches, and the report of each answer.

The champion scores in this process. During a rollout, a challenger's share of the requests also goes to that
challenger's application, while the champion scores the same rows here: that gives paired evidence, and a fallback
when the challenger fails, is late or is missing. A caller never sees a challenger's error. Of other requests, the
challenger may score copies after the answer (copies.py).
"""

from __future__ import annotations

import asyncio
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
from deployments.inference.predictor import ScoredBatch
from deployments.inference.serving_state import ServingState
from deployments.inference.variant_scoring import ChampionPart, RoutedRequest
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import PredictionBatch
from deployments.telemetry.reporter import Reporter
from deployments.traffic_split import assign_variant

MAX_BATCH_ROWS = 1024
MAX_SHADOW_REQUESTS = 64
"""Most shadow requests that wait for the challenger. Beyond it none is copied; those left out are counted."""

# A call costs more than a row does: under load, few calls carry many requests.
_CONCURRENT_CHALLENGER_CALLS = 2


class InferenceResult(NamedTuple):
    """What a caller gets: scores as ``cluster.values.Task`` describes them, and who computed them."""

    scores: np.ndarray
    version: str
    variant: Variant


class Engine:
    """Scores the requests of one replica, and reports the answers.

    Args:
        obeys: Whether an order to end the rollout would reach this replica (OrderLease).
    """

    def __init__(self, obeys: Callable[[], bool]) -> None:
        self._obeys = obeys
        self._champion: Batcher[RoutedRequest, ScoredBatch] = Batcher(self._score, _row_count, MAX_BATCH_ROWS)
        # By version: a challenger that hangs must not delay the others.
        self._challengers: defaultdict[str, Batcher[RoutedRequest, ScoreResult]] = defaultdict(
            lambda: Batcher(
                variant_scoring.score_with_challenger, _row_count, MAX_BATCH_ROWS, _CONCURRENT_CHALLENGER_CALLS
            )
        )
        self._shadows: set[asyncio.Task[None]] = set()
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
            parts, scored = variant_scoring.score_with_champion(group)
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


def _champion_result(state: ServingState, scored: ScoredBatch) -> InferenceResult:
    if scored.scores is None:
        raise RequestError("request.model_failed", error=scored.error)
    return InferenceResult(scored.scores, state.champion.version, "champion")
