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
from deployments.telemetry.prediction_log import PredictionBatch, to_ipc


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


def score_with_champion(
    requests: Sequence[RoutedRequest],
) -> tuple[list[PredictionBatch], list[ScoredBatch | Exception]]:
    """Score requests of one state with its champion.

    Returns:
        The answers to the requests without a challenger; and for each request its scores, or an exception when the
        request is bad (RequestError) or not even its features could be computed.
    """
    answers: list[PredictionBatch] = []
    results: list[ScoredBatch | Exception] = []
    for batch in requests[0].state.champion.score([request.rows for request in requests], requests[0].at_us):
        part = requests[len(results) : len(results) + len(batch.sizes)]
        if batch.failure is not None and (batch.frame is None or isinstance(batch.failure, RequestError)):
            results.append(batch.failure)
            continue
        results += _split(part, batch)
        champion_only = [request.challenger is None for request in part]
        if any(champion_only):
            own = batch if all(champion_only) else _select(batch, champion_only)
            answers.append(build_answer([request for request in part if request.challenger is None], own))
    return answers, results


def build_answer(
    requests: Sequence[RoutedRequest], champion: ScoredBatch, challenger: ScoreResult | None = None
) -> PredictionBatch:
    """Record what was answered to requests that were scored together; with a challenger, to one request."""
    first = requests[0]
    split, version = first.state.config.split, first.state.champion.version
    by_challenger = challenger is not None and challenger.scores is not None and not (split and split.shadow)
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
        rollout=split.rollout if split else None,
        share=split.share if split else None,
        champion_share=split.champion_share if split else None,
        challenger_version=first.challenger,
        champion=champion.scores,
        challenger=challenger.scores if challenger else None,
        error=challenger.error if challenger else None,
        champion_error=champion.error,
    )


async def score_with_challenger(requests: Sequence[RoutedRequest]) -> list[ScoreResult | Exception]:
    """Score requests with one challenger, in one call for each state; a failed call fails all of its requests."""
    results: list[ScoreResult | Exception] = []
    for _, together in groupby(requests, key=lambda request: id(request.state)):
        group = list(together)
        try:
            results += await _call_challenger(group)
        except Exception as error:
            results += [error] * len(group)
    return results


def failure_result(split: TrafficSplit, version: str, error: Exception) -> ScoreResult:
    """A challenger's failure as a result."""
    timed_out = isinstance(error, TimeoutError)
    what = f"no answer within {split.timeout_s:g} s" if timed_out else summarize_error(error)
    return ScoreResult(version, None, None, what)


async def _call_challenger(requests: Sequence[RoutedRequest]) -> list[ScoreResult]:
    """Raises the failure of the call, or TimeoutError."""
    first = requests[0]
    assert first.state.config.split is not None
    assert first.challenger is not None
    rows = first.state.champion.build_table([request.rows for request in requests])
    call = ScoreRequest(to_ipc(rows), [request.rows.size for request in requests], first.at_us)
    return await asyncio.wait_for(
        first.state.challengers[first.challenger].score(call), first.state.config.split.timeout_s
    )


def _split(requests: Sequence[RoutedRequest], batch: ScoredBatch) -> list[ScoredBatch | Exception]:
    """Each request's part of a batch; with the frame only where the challenger also scores the request."""
    if len(requests) == 1:
        return [batch]
    assert batch.scores is not None
    assert batch.frame is not None
    ends = np.cumsum((0, *batch.sizes)).tolist()
    return [
        ScoredBatch(
            (j - i,),
            batch.frame.slice(i, j - i) if request.challenger is not None else None,
            batch.scores[i:j],
            batch.latency_ms,
        )
        for request, (i, j) in zip(requests, pairwise(ends), strict=True)
    ]


def _select(batch: ScoredBatch, mask: list[bool]) -> ScoredBatch:
    """The part of a batch that belongs to some of its requests."""
    rows = np.repeat(mask, batch.sizes)
    assert batch.scores is not None
    assert batch.frame is not None
    sizes = tuple(size for size, keep in zip(batch.sizes, mask, strict=True) if keep)
    return ScoredBatch(sizes, batch.frame.filter(pa.array(rows)), batch.scores[rows], batch.latency_ms)
