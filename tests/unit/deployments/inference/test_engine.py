"""Shadowing under load: requests that are not copied are no evidence, and the split stays as configured."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.sample_ratio import log_e_split
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.engine import MAX_SHADOW_REQUESTS, Engine
from deployments.inference.serving_state import ServingState
from deployments.protocol.request_rows import RequestRows
from deployments.serve_schema import TrafficSplit
from deployments.telemetry.prediction_log import prediction_rows
from tests.factories.deployments.instant_champion import InstantChampion, RecordingReporter
from tests.factories.deployments.serving_state import build_state
from tests.factories.deployments.tasks import BINARY

ONE = RequestRows(1, ([0.5],), ("distance",))
REQUESTS = 4000
LOOP_ITERATIONS = 40


class SlowChallenger:
    """A challenger that takes as many iterations of the loop as a burst of requests."""

    async def score(self, request: ScoreRequest) -> list[ScoreResult]:
        for _ in range(LOOP_ITERATIONS):
            await asyncio.sleep(0)
        return [ScoreResult("2", np.full(1, 0.5, np.float32), 1.0, None) for _ in request.sizes]


def shadow_state(share: float) -> ServingState:
    plain = build_state("2", share=share)
    assert plain.config.split is not None
    split: TrafficSplit = plain.config.split.model_copy(update={"shadow": True, "timeout_s": 60.0})
    config = plain.config.model_copy(update={"split": split})
    return plain._replace(
        config=config, champion=cast(Any, InstantChampion()), challengers={"2": cast(Any, SlowChallenger())}
    )


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_infer_with_too_many_shadows_leaves_the_split_as_configured(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = RecordingReporter()
    monkeypatch.setattr("deployments.inference.engine.Reporter", lambda model, count_in_flight: telemetry)

    async def call_all() -> set[str]:
        engine, state = Engine(lambda: True), shadow_state(share)
        engine.start_telemetry("trips", lambda: 0)
        variants: set[str] = set()
        for i in range(0, REQUESTS, 100):
            burst = [engine.infer(state, f"q{j}", ONE, None, None) for j in range(i, i + 100)]
            variants |= {result.variant for result in await asyncio.gather(*burst)}
        # What is left are the shadow requests.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        return variants

    assert asyncio.run(call_all()) == {"champion"}
    log = EvidenceCollector("r", ("2",))
    for one in telemetry.answers:
        log.add_predictions(prediction_rows([one], "b"))
    evidence = log.evidence(BINARY)["2"]
    assert telemetry.dropped > REQUESTS * share / 10
    assert evidence.total.challenger.requests >= MAX_SHADOW_REQUESTS
    assert log_e_split(evidence, (share,)) < np.log(1.0 / 0.05)
    assert sum(len(one.requests) for one in telemetry.answers) == REQUESTS


@pytest.mark.parametrize(
    ("pinned", "held", "variant", "rollouts"),
    [
        (None, True, "challenger", {"r"}),
        (None, False, "champion", {None}),
        ("2", False, "challenger", {"r"}),
    ],
)
def test_replica_that_no_order_reaches_answers_with_its_champion_alone(
    pinned: str | None, held: bool, variant: str, rollouts: set[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = RecordingReporter()
    monkeypatch.setattr("deployments.inference.engine.Reporter", lambda model, count_in_flight: telemetry)
    plain = build_state("2", share=1.0)
    state = plain._replace(champion=cast(Any, InstantChampion()), challengers={"2": cast(Any, SlowChallenger())})

    async def call() -> str:
        engine = Engine(lambda: held)
        engine.start_telemetry("trips", lambda: 0)
        return (await engine.infer(state, "q", ONE, None, pinned)).variant

    assert asyncio.run(call()) == variant
    # Its answers are no evidence, for either variant.
    assert {answer.rollout for answer in telemetry.answers} == rollouts
