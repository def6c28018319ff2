"""Who answers, and what came of it: the champion here, a challenger over its handle, both on the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cluster.errors import RequestError
from cluster.names import CHALLENGER, CHAMPION, Variant
from deployments.http_messages import VARIANT_HEADER
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.predictor import ScoredBatch, Scorer, summarize_error
from deployments.inference.traffic_split import find_slice
from deployments.protocol.open_inference import InferRequestParser
from deployments.protocol.request_rows import RequestRows
from deployments.serve_schema import RolloutTrial, ServerConfig
from deployments.telemetry.prediction_log import Answer, to_ipc


class ServingState(NamedTuple):
    """What is served now; swapped as a whole, so that a request sees one state throughout."""

    config: ServerConfig
    champion: Scorer
    form: InferRequestParser
    challengers: Mapping[str, ChallengerClient]

    @property
    def versions(self) -> dict[str, Variant]:
        """The versions that answer now, and the variant that each of them is."""
        served: dict[str, Variant] = {self.champion.version: "champion"}
        served.update(dict.fromkeys(self.challengers, "challenger"))
        return served

    def forced(self, version: str | None, header: str | None) -> str | None:
        """The version that a path, or a tester's header, asks for. Raises RequestError: 404, 400."""
        if version is None and header is None:
            return None
        if header not in (None, CHAMPION, CHALLENGER):
            raise RequestError(f"expected {CHAMPION} or {CHALLENGER}", field=VARIANT_HEADER)
        if version is None:
            return self._only(header)
        if version not in self.versions:
            known = ", ".join(self.versions)
            raise RequestError(f"v{version[:20]} is not served", status=404, todo=f"served is {known}")
        if header not in (None, self.versions[version]):
            raise RequestError(f"v{version} is the {self.versions[version]}", field=VARIANT_HEADER)
        return version

    def _only(self, header: str | None) -> str:
        """The one version that is the variant; without a challenger the champion stands in. Raises RequestError: 400."""
        if header == CHAMPION or not self.challengers:
            return self.champion.version
        if len(self.challengers) > 1:
            known = ", ".join(self.challengers)
            raise RequestError(
                f"{len(self.challengers)} challengers are on trial",
                field=VARIANT_HEADER,
                todo=f"name a version: {known}",
            )
        return next(iter(self.challengers))


class RoutedRequest(NamedTuple):
    """A request's rows, the state it came in under, and who is to answer it by the split of routing keys, or by force.

    ``challenger`` is the version of the challenger to ask; None: the champion answers alone.
    """

    live: ServingState
    id: str
    key: str
    forced: bool
    rows: RequestRows
    challenger: str | None
    at_us: int


def assign_variant(live: ServingState, forced: str | None, key: str) -> str | None:
    """The challenger that the split deals ``key`` to, or whose version is forced (``Live.forced``); None: the champion."""
    trial = live.config.trial
    if trial is None:
        return None
    if forced is not None:
        return forced if forced in live.challengers else None
    index = find_slice(trial.rollout, key, trial.share, trial.starts)
    return None if index is None else trial.challengers[index].version


def score_with_champion(
    live: ServingState, asked: Sequence[RoutedRequest]
) -> tuple[list[Answer], list[ScoredBatch | Exception]]:
    """Score requests with the champion.

    Returns the answers to those that the challenger has no part in, and what each request got; an exception stands for
    a request that is bad (RequestError), or of which not even features could be had.
    """
    answers: list[Answer] = []
    each: list[ScoredBatch | Exception] = []
    for scored in live.champion.score([one.rows for one in asked], asked[0].at_us):
        part = asked[len(each) : len(each) + len(scored.sizes)]
        if scored.failure is not None and (scored.frame is None or isinstance(scored.failure, RequestError)):
            each.append(scored.failure)
            continue
        each += _shares(part, scored)
        own = [one.challenger is None for one in part]
        if any(own):
            kept = scored if all(own) else _only(scored, own)
            answers.append(build_answer([one for one, mine in zip(part, own, strict=True) if mine], kept))
    return answers, each


def build_answer(
    asked: Sequence[RoutedRequest], champion: ScoredBatch, challenger: ScoreResult | None = None
) -> Answer:
    """What came of requests that were scored together; with a challenger, of one."""
    config, manifest = asked[0].live.config, asked[0].live.champion.manifest
    trial = config.trial
    answers = challenger is not None and challenger.scores is not None and not (trial and trial.shadow)
    assert champion.frame is not None
    return Answer(
        requests=[one.id for one in asked],
        keys=[one.key for one in asked],
        forced=[one.forced for one in asked],
        sizes=champion.sizes,
        frame=champion.frame,
        task=manifest.task,
        champion_version=asked[0].live.champion.version,
        version=challenger.version if challenger and answers else asked[0].live.champion.version,
        assigned="champion" if asked[0].challenger is None else "challenger",
        variant="challenger" if answers else "champion",
        at_us=asked[0].at_us,
        champion_latency_ms=None if champion.scores is None else champion.latency_ms,
        challenger_latency_ms=challenger.latency_ms if challenger and challenger.scores is not None else None,
        rollout=trial.rollout if trial else None,
        share=trial.share if trial else None,
        champion_share=trial.champion_share if trial else None,
        challenger_version=asked[0].challenger,
        champion=champion.scores,
        challenger=challenger.scores if challenger else None,
        error=challenger.error if challenger else None,
        champion_error=champion.error,
    )


async def score_with_challenger(asked: Sequence[RoutedRequest]) -> list[ScoreResult | Exception]:
    """What a challenger says of requests, with one question for each state they came in under."""
    said: list[ScoreResult | Exception] = []
    for _, together in groupby(asked, key=lambda one: id(one.live)):
        group = list(together)
        try:
            said += await _call(group)
        except Exception as error:
            said += [error] * len(group)
    return said


async def _call(asked: Sequence[RoutedRequest]) -> list[ScoreResult]:
    """Raises what went wrong with the call, or TimeoutError."""
    live = asked[0].live
    assert live.config.trial is not None
    assert asked[0].challenger is not None
    rows = live.champion.table([one.rows for one in asked])
    question = ScoreRequest(to_ipc(rows), [one.rows.size for one in asked], asked[0].at_us)
    return await asyncio.wait_for(live.challengers[asked[0].challenger].ask(question), live.config.trial.timeout_s)


def failure_result(trial: RolloutTrial, version: str, error: Exception) -> ScoreResult:
    """A challenger's failure as an outcome."""
    late = isinstance(error, TimeoutError)
    return ScoreResult(
        version, None, None, f"no answer within {trial.timeout_s:g} s" if late else summarize_error(error)
    )


def _shares(asked: Sequence[RoutedRequest], scored: ScoredBatch) -> list[ScoredBatch | Exception]:
    """Each request's part of what was scored together; the frame only where the challenger is to be compared."""
    if len(asked) == 1:
        return [scored]
    assert scored.scores is not None
    assert scored.frame is not None
    ends = np.cumsum((0, *scored.sizes)).tolist()
    return [
        ScoredBatch(
            (j - i,),
            scored.frame.slice(i, j - i) if one.challenger is not None else None,
            scored.scores[i:j],
            scored.latency_ms,
        )
        for one, (i, j) in zip(asked, pairwise(ends), strict=True)
    ]


def _only(scored: ScoredBatch, kept: list[bool]) -> ScoredBatch:
    """The part of some of the requests."""
    rows = np.repeat(kept, scored.sizes)
    assert scored.scores is not None
    assert scored.frame is not None
    sizes = tuple(size for size, keep in zip(scored.sizes, kept, strict=True) if keep)
    return ScoredBatch(sizes, scored.frame.filter(pa.array(rows)), scored.scores[rows], scored.latency_ms)
