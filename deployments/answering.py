"""Who answers, and what came of it: the champion here, the challenger over its handle, both on the same rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from ray.serve.handle import DeploymentHandle

from cluster.contracts import CHALLENGER, CHAMPION, Variant
from cluster.errors import RequestError
from deployments.challenger import Said
from deployments.http import VARIANT
from deployments.log import Answer, to_ipc
from deployments.predictor import Scored, Scorer, one_line
from deployments.split import assign
from deployments.user_config import ServerConfig, Trial


class Live(NamedTuple):
    """What is served now; swapped as a whole, so that a request sees one state throughout."""

    config: ServerConfig
    champion: Scorer
    challenger: DeploymentHandle | None


class Asked(NamedTuple):
    """A request's typed rows, the state it came in under, and who is to answer it by the split of routing keys."""

    live: Live
    id: str
    key: str
    rows: pa.Table
    assigned: Variant


def assigned(trial: Trial | None, forced: str | None, key: str) -> Variant:
    """The variant that the split deals ``key`` to, or the one a tester's header forces. Raises RequestError."""
    if forced not in (None, CHAMPION, CHALLENGER):
        raise RequestError(f"expected {CHAMPION} or {CHALLENGER}", field=VARIANT)
    if trial is None or forced == CHAMPION:
        return "champion"
    if forced == CHALLENGER:
        return "challenger"
    return assign(trial.rollout, key, trial.share)


async def answer_each(live: Live, asked: Sequence[Asked]) -> list[Answer | Exception]:
    """Score requests with the champion and, those dealt to it, with the challenger.

    An exception stands for a request that is bad (RequestError), or of which not even features could be had.
    """
    at_us = time.time_ns() // 1000
    dealt = [i for i, one in enumerate(asked) if one.assigned == CHALLENGER]
    ahead = None
    if dealt and live.config.trial is not None and live.challenger is not None:
        rows = [asked[i].rows for i in dealt]
        ahead = asyncio.ensure_future(_ask(live.challenger, live.config.trial, rows, at_us))
        # Lets the challenger's call leave before the champion takes this thread.
        await asyncio.sleep(0)
    champion = live.champion.score_each([one.rows for one in asked], at_us)
    said: Mapping[int, Said] = dict(zip(dealt, await ahead, strict=True)) if ahead is not None else {}
    return [_answer(one, champion[i], said.get(i), at_us) for i, one in enumerate(asked)]


def _answer(asked: Asked, champion: Scored, challenger: Said | None, at_us: int) -> Answer | Exception:
    if champion.failure is not None and (champion.frame is None or isinstance(champion.failure, RequestError)):
        return champion.failure
    config, manifest = asked.live.config, asked.live.champion.manifest
    trial = config.trial
    answers = challenger if challenger is not None and challenger.scores is not None else None
    assert champion.frame is not None
    return Answer(
        request=asked.id,
        key=asked.key,
        frame=champion.frame,
        task=manifest.task,
        champion_version=asked.live.champion.version,
        version=answers.version if answers else asked.live.champion.version,
        assigned=asked.assigned,
        variant="challenger" if answers else "champion",
        at_us=at_us,
        latency_ms=(answers or champion).latency_ms,
        rollout=trial.rollout if trial else None,
        share=trial.share if trial else None,
        champion=champion.scores,
        challenger=challenger.scores if challenger else None,
        error=challenger.error if challenger else None,
        champion_error=champion.error,
    )


async def _ask(handle: DeploymentHandle, trial: Trial, rows: list[pa.Table], now_us: int) -> list[Said]:
    """What the challenger says within its time; any failure is an outcome, not an exception."""
    started = time.perf_counter()
    response: Any = handle.score.remote(to_ipc(pa.concat_tables(rows)), [part.num_rows for part in rows], now_us)
    try:
        said: list[Said] = await asyncio.wait_for(result(response), trial.timeout_s)
        return said
    except TimeoutError:
        response.cancel()
        failure = f"no answer within {trial.timeout_s:g} s"
    except Exception as error:
        failure = one_line(error)
    took_ms = (time.perf_counter() - started) * 1e3
    return [Said(trial.challenger.version, None, took_ms, failure)] * len(rows)


async def result(response: Any) -> Any:
    """A handle's response as a coroutine, which asyncio can give a time limit."""
    return await response
