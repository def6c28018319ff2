"""Shadowing under load: whom copies are not taken of is no evidence, and the split stays the one that is configured."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from deployments.analysis.evidence_collector import RolloutLog
from deployments.analysis.sample_ratio import log_e_split
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.dispatch import ServingState
from deployments.inference.engine import MAX_SHADOW_REQUESTS, Engine
from deployments.inference.predictor import ScoredBatch
from deployments.protocol.request_rows import RequestRows
from deployments.serve_schema import RolloutTrial
from deployments.telemetry.prediction_log import Answer, predictions
from tests.factories.deployments.bundles import BINARY
from tests.unit.deployments.analysis.test_evidence_collector import frame
from tests.unit.deployments.test_forced import live

ONE = RequestRows(1, ([0.5],), ("distance",))
REQUESTS = 4000


class Champion:
    """Answers at once."""

    version = "1"

    class manifest:  # noqa: N801
        task = BINARY

        class features:  # noqa: N801
            columns = ()

    def score(self, requests: list[RequestRows], now_us: int) -> list[ScoredBatch]:
        count = len(requests)
        return [ScoredBatch((1,) * count, frame(count), np.full(count, 0.5, np.float32), 1.0)]

    def table(self, requests: list[RequestRows]) -> Any:
        return frame(len(requests))


class Slow:
    """A challenger that is slower than requests come."""

    async def ask(self, asked: ScoreRequest) -> list[ScoreResult]:
        await asyncio.sleep(0.01)
        return [ScoreResult("2", np.full(1, 0.5, np.float32), 1.0, None) for _ in asked.sizes]


class Telemetry:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.dropped = 0

    def answered(self, answer: Answer, columns: object, window_s: object) -> None:
        self.answers.append(answer)

    def unshadowed(self) -> None:
        self.dropped += 1


def shadowed(share: float) -> ServingState:
    plain = live("2", share=share)
    assert plain.config.trial is not None
    trial: RolloutTrial = plain.config.trial.model_copy(update={"shadow": True, "timeout_s": 60.0})
    config = plain.config.model_copy(update={"trial": trial})
    return plain._replace(config=config, champion=cast(Any, Champion()), challengers={"2": cast(Any, Slow())})


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_copies_that_are_not_taken_leave_the_split_as_it_is(share: float) -> None:
    telemetry = Telemetry()

    async def ask_all() -> set[str]:
        engine, now = Engine(), shadowed(share)
        engine._telemetry = cast(Any, telemetry)
        variants: set[str] = set()
        for i in range(0, REQUESTS, 100):
            burst = [engine.answer(now, f"q{j}", ONE, None, None) for j in range(i, i + 100)]
            variants |= {outcome.variant for outcome in await asyncio.gather(*burst)}
        await asyncio.gather(*engine._shadows)
        return variants

    assert asyncio.run(ask_all()) == {"champion"}
    log = RolloutLog("r", ("2",))
    for one in telemetry.answers:
        log.add_predictions(predictions([one], "b"))
    evidence = log.evidence(BINARY)["2"]
    assert telemetry.dropped > REQUESTS * share / 10
    assert evidence.total.challenger.requests >= MAX_SHADOW_REQUESTS
    assert log_e_split(evidence, (share,)) < np.log(1.0 / 0.05)
    assert sum(len(one.requests) for one in telemetry.answers) == REQUESTS
