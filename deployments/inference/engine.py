"""Answers by champion and challenger, in batches, and the report of what came of them.

The champion scores in this process. During a rollout a challenger's share of requests goes to that challenger's
application as well, while the champion scores the same rows here: that gives paired evidence, and an answer at hand
when the challenger fails, is late or is missing. A caller never sees a challenger's error.
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
from deployments.inference import dispatch
from deployments.inference.batcher import Batcher
from deployments.inference.challenger_protocol import ScoreResult
from deployments.inference.dispatch import RoutedRequest, ServingState
from deployments.inference.predictor import ScoredBatch
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import Answer
from deployments.telemetry.reporter import Telemetry

MAX_BATCH_ROWS = 1024
MAX_SHADOW_REQUESTS = 64
"""Requests whose copies are with the challenger or wait to be. Beyond it none is copied, which is counted."""

# A call costs more than a row does: under load few calls carry many requests.
_CHALLENGER_CALLS = 2


class InferenceResult(NamedTuple):
    """What a caller gets: scores as contracts.Task says, and who gave them."""

    scores: np.ndarray
    version: str
    variant: Variant


class Engine:
    """One replica's way from rows to answers."""

    def __init__(self) -> None:
        self._champion: Batcher[RoutedRequest, ScoredBatch] = Batcher(self._score, _rows, MAX_BATCH_ROWS)
        # By version: one challenger that hangs must not keep the others waiting.
        self._challengers: defaultdict[str, Batcher[RoutedRequest, ScoreResult]] = defaultdict(
            lambda: Batcher(dispatch.score_with_challenger, _rows, MAX_BATCH_ROWS, _CHALLENGER_CALLS)
        )
        self._shadows: set[asyncio.Task[None]] = set()
        self._untried: tuple[ServingState, ServingState] | None = None
        self._telemetry: Telemetry | None = None

    async def answer(
        self, live: ServingState, request: str, rows: RequestRows, key: str | None, forced: str | None
    ) -> InferenceResult:
        """Answer one request. Raises RequestError: 400 when it is bad, 500 when nobody could answer."""
        asked = self._asked(live, request, rows, key or request, forced)
        if asked.challenger is None:
            return _by_champion(live, await self._champion(asked))
        said = asyncio.ensure_future(self._said(asked, asked.challenger))
        try:
            scored = await self._champion(asked)
        except BaseException:
            said.cancel()
            raise
        if live.config.trial is not None and live.config.trial.shadow:
            self._follow(asked, scored, said)
            return _by_champion(live, scored)
        answer = dispatch.build_answer([asked], scored, await said)
        self._report(live, answer)
        if answer.scores is None:
            raise _failed(scored)
        return InferenceResult(answer.scores, answer.version, answer.variant)

    def open(self, model: str, under_way: Callable[[], int]) -> None:
        """Get ready to report, ``under_way`` telling how many requests are; takes seconds. Before the first answer."""
        if self._telemetry is None:
            self._telemetry = Telemetry(model, under_way)

    @property
    def reporting(self) -> Telemetry:
        """Where this replica's reports go."""
        assert self._telemetry is not None
        return self._telemetry

    def close(self, within_s: float) -> None:
        """Ship what is not reported yet."""
        if self._telemetry is not None:
            self._telemetry.close(within_s)

    def _asked(
        self, live: ServingState, request: str, rows: RequestRows, key: str, forced: str | None
    ) -> RoutedRequest:
        challenger = dispatch.assign_variant(live, forced, key)
        if len(self._shadows) >= MAX_SHADOW_REQUESTS and live.config.trial is not None and live.config.trial.shadow:
            if challenger is not None:
                self.reporting.unshadowed()
            live, challenger = self._without_trial(live), None
        return RoutedRequest(live, request, key, forced is not None, rows, challenger, time.time_ns() // 1000)

    def _without_trial(self, live: ServingState) -> ServingState:
        """The same without a trial: what comes while no copy is taken is no evidence, whoever it was dealt to.

        Were only the challenger's requests left out, the split would not be the one that is configured.
        """
        if self._untried is None or self._untried[0] is not live:
            self._untried = live, live._replace(config=live.config.model_copy(update={"trial": None}))
        return self._untried[1]

    async def _score(self, asked: Sequence[RoutedRequest]) -> list[ScoredBatch | Exception]:
        """A batch by the state its requests came in under: a swap may fall between two of them."""
        each: list[ScoredBatch | Exception] = []
        for _, together in groupby(asked, key=lambda one: id(one.live)):
            group = list(together)
            answers, scored = dispatch.score_with_champion(group[0].live, group)
            each += scored
            for answer in answers:
                self._report(group[0].live, answer)
        return each

    async def _said(self, asked: RoutedRequest, challenger: str) -> ScoreResult:
        """What the challenger says within its time; any failure is an outcome, not an exception."""
        trial = asked.live.config.trial
        assert trial is not None
        try:
            return await asyncio.wait_for(self._challengers[challenger](asked), trial.timeout_s)
        except Exception as error:
            return dispatch.failure_result(trial, challenger, error)

    def _follow(self, asked: RoutedRequest, scored: ScoredBatch, said: asyncio.Future[ScoreResult]) -> None:
        """Report a shadowed request once the challenger has spoken."""

        async def follow() -> None:
            self._report(asked.live, dispatch.build_answer([asked], scored, await said))

        task = asyncio.get_running_loop().create_task(follow())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    def _report(self, live: ServingState, answer: Answer) -> None:
        if live.config.report:
            columns = live.champion.manifest.features.columns
            self.reporting.answered(answer, columns, live.config.profile_window_s)


def _rows(asked: RoutedRequest) -> int:
    return asked.rows.size


def _by_champion(live: ServingState, scored: ScoredBatch) -> InferenceResult:
    if scored.scores is None:
        raise _failed(scored)
    return InferenceResult(scored.scores, live.champion.version, "champion")


def _failed(scored: ScoredBatch) -> RequestError:
    return RequestError(f"the model failed: {scored.error}", status=500)
