"""Scoring by champion and challenger on the same rows, and the record of what each answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.errors import RequestError
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.predictor import ScoredBatch, summarize_error
from deployments.inference.serving_state import ServingState
from deployments.protocol.request_rows import RequestRows
from deployments.serve_schema import TrafficSplit
from deployments.telemetry.prediction_log import Copied, PredictionBatch, to_ipc
from features.attributions.explanation import RowExplanation


class RoutedRequest(NamedTuple):
    """A request whose variant is chosen."""

    state: ServingState
    """What was served when it came in."""
    id: str
    key: str
    """Routing key."""
    pinned: bool
    """Whether a tester chose the variant; else the split did."""
    rows: RequestRows
    challenger: str | None
    """Version of the challenger that also scores it; None: only the champion."""
    at_us: int
    """Arrival, microseconds since the epoch."""
    explained: bool = False
    """Whether it is reported only once it is explained."""


class ChampionPart(NamedTuple):
    """Requests that the champion has scored together."""

    requests: Sequence[RoutedRequest]
    scored: ScoredBatch

    def select(self, indices: Sequence[int]) -> ChampionPart:
        """Some of the requests, in rising order."""
        if len(indices) == len(self.requests):
            return self
        assert self.scored.scores is not None
        assert self.scored.frame is not None
        mask = np.zeros(len(self.requests), bool)
        mask[list(indices)] = True
        rows = np.repeat(mask, self.scored.sizes)
        sizes = tuple(self.scored.sizes[i] for i in indices)
        frame = self.scored.frame.filter(pa.array(rows))
        scored = ScoredBatch(sizes, frame, self.scored.scores[rows], self.scored.latency_ms)
        return ChampionPart([self.requests[i] for i in indices], scored)


async def score_with_champion(
    requests: Sequence[RoutedRequest],
) -> tuple[list[ChampionPart], list[ScoredBatch | Exception]]:
    """Score requests of one state with its champion.

    Returns:
        The requests that neither a challenger scores nor an explanation follows, with their scores; and for each
        request its scores, or an exception when the request is bad (RequestError) or not even its features could be
        computed.
    """
    parts: list[ChampionPart] = []
    results: list[ScoredBatch | Exception] = []
    rows = [request.rows for request in requests]
    for batch in await requests[0].state.champion.score(rows, requests[0].at_us):
        part = requests[len(results) : len(results) + len(batch.sizes)]
        if batch.failure is not None and (batch.frame is None or isinstance(batch.failure, RequestError)):
            results.append(batch.failure)
            continue
        results += _split(part, batch)
        if complete := [i for i, one in enumerate(part) if one.challenger is None and not one.explained]:
            parts.append(ChampionPart(part, batch).select(complete))
    return parts, results


def build_answer(
    requests: Sequence[RoutedRequest],
    champion: ScoredBatch,
    challenger: ScoreResult | None = None,
    copied: Copied | None = None,
    champion_answers: bool = False,
) -> PredictionBatch:
    """Record what was answered to requests that were scored together.

    Args:
        requests: The requests; only one where a challenger was to answer it.
        champion: The champion's scores.
        challenger: The challenger's result, for all rows.
        copied: What became of the copies that a challenger should have got.
        champion_answers: Whether the champion answered although the challenger scored.
    """
    first = requests[0]
    split, version = first.state.config.split, first.state.champion.version
    only_champion = champion_answers or copied is not None or (split is not None and split.shadow)
    by_challenger = challenger is not None and challenger.scores is not None and not only_champion
    # At share 0, during a probation, requests that were not copied say nothing about the rollout.
    logged = split if split is not None and (split.share > 0.0 or challenger is not None) else None
    assert champion.frame is not None
    return PredictionBatch(
        requests=[request.id for request in requests],
        keys=[request.key for request in requests],
        forced=[request.pinned for request in requests],
        sizes=champion.sizes,
        frame=champion.frame,
        task=first.state.champion.manifest.task,
        champion_version=version,
        version=challenger.version if challenger and by_challenger else version,
        assigned="champion" if first.challenger is None else "challenger",
        variant="challenger" if by_challenger else "champion",
        at_us=first.at_us,
        champion_latency_ms=None if champion.scores is None else champion.latency_ms,
        challenger_latency_ms=challenger.latency_ms if challenger and challenger.scores is not None else None,
        rollout=logged.rollout if logged else None,
        share=logged.share if logged else None,
        champion_share=logged.champion_share if logged else None,
        challenger_version=challenger.version if copied and challenger else first.challenger,
        champion=champion.scores,
        challenger=challenger.scores if challenger else None,
        error=challenger.error if challenger else None,
        champion_error=champion.error,
        copied=copied,
        explanations=champion.explanations,
    )


def join_results(results: Sequence[ScoreResult]) -> ScoreResult:
    """One result for the rows of several copies that ended alike, without the time of the call they shared."""
    first, scores = results[0], [result.scores for result in results if result.scores is not None]
    return ScoreResult(first.version, np.concatenate(scores) if scores else None, None, first.error)


async def score_with_challenger(requests: Sequence[RoutedRequest]) -> list[ScoreResult | Exception]:
    """Score requests with one challenger, in one call for each state; a failed call fails all of its requests."""
    results: list[ScoreResult | Exception] = []
    for _, together in groupby(requests, key=lambda request: id(request.state)):
        group = list(together)
        try:
            assert group[0].challenger is not None
            results += await call_challenger(group, group[0].challenger)
        except Exception as error:
            results += [error] * len(group)
    return results


def failure_result(split: TrafficSplit, version: str, error: Exception) -> ScoreResult:
    """A challenger's failure as a result."""
    timed_out = isinstance(error, TimeoutError)
    what = f"no answer within {split.timeout_s:g} s" if timed_out else summarize_error(error)
    return ScoreResult(version, None, None, what)


async def call_challenger(requests: Sequence[RoutedRequest], version: str) -> list[ScoreResult]:
    """Have a challenger score requests of one state. Raises the failure of the call, or TimeoutError."""
    first = requests[0]
    assert first.state.config.split is not None
    rows = first.state.champion.build_table([request.rows for request in requests])
    call = ScoreRequest(to_ipc(rows), [request.rows.size for request in requests], first.at_us)
    return await asyncio.wait_for(first.state.challengers[version].score(call), first.state.config.split.timeout_s)


async def call_explainer(request: RoutedRequest, version: str) -> list[RowExplanation]:
    """Have a challenger explain its scores of one request; empty if it cannot. Raises the failure of the call."""
    rows = request.state.champion.build_table([request.rows])
    call = ScoreRequest(to_ipc(rows), [request.rows.size], request.at_us)
    return [RowExplanation.from_stored(text) for text in await request.state.challengers[version].explain(call)]


def _split(requests: Sequence[RoutedRequest], batch: ScoredBatch) -> list[ScoredBatch | Exception]:
    """Each request's part of a batch; with the frame only where the request is not complete yet."""
    if len(requests) == 1:
        return [batch]
    assert batch.scores is not None
    assert batch.frame is not None
    ends = np.cumsum((0, *batch.sizes)).tolist()
    return [
        ScoredBatch(
            (j - i,),
            batch.frame.slice(i, j - i) if request.challenger is not None or request.explained else None,
            batch.scores[i:j],
            batch.latency_ms,
        )
        for request, (i, j) in zip(requests, pairwise(ends), strict=True)
    ]
