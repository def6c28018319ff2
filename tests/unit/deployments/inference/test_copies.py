"""Copies of the champion's requests: after the answer, within a bound and a budget, and each request is logged once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.copies import MAX_COPIED_ROWS
from deployments.inference.engine import Engine
from deployments.inference.serving_state import ServingState
from deployments.protocol.request_rows import RequestRows
from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from deployments.traffic_split import assign_variant, choose_copy
from tests.factories.deployments.instant_champion import InstantChampion, RecordingReporter
from tests.factories.deployments.predictions import label_table
from tests.factories.deployments.serving_state import build_state
from tests.factories.deployments.tasks import BINARY

ONE = RequestRows(1, ([0.5],), ("distance",))
PLENTY = 100.0
"""CPUs: no copy is dropped for lack of budget."""


class Challenger:
    """Scores 0.25, except requests whose number of rows is in ``fails``; waits for ``free`` first."""

    def __init__(self, version: str = "2", *, fails: int = 0, free: asyncio.Event | None = None) -> None:
        self.calls: list[list[int]] = []
        self._version = version
        self._fails, self._free = fails, free

    async def score(self, request: ScoreRequest) -> list[ScoreResult]:
        self.calls.append(request.sizes)
        if self._free is not None:
            await self._free.wait()
        return [self._result(size) for size in request.sizes]

    def _result(self, size: int) -> ScoreResult:
        if size == self._fails:
            return ScoreResult(self._version, None, 1.0, "ValueError: no")
        return ScoreResult(self._version, np.full(size, 0.25, np.float32), 1.0, None)


class LostChallenger:
    """Loses every connection."""

    async def score(self, request: ScoreRequest) -> list[ScoreResult]:
        raise ConnectionResetError("gone")


def copying_state(*challengers: Any, share: float = 0.0, **split: Any) -> ServingState:
    """Champion v1, and challengers from v2 on that get copies."""
    versions = [str(number) for number in range(2, 2 + len(challengers))]
    plain = build_state(*versions, share=share)
    assert plain.config.split is not None
    update = {"copies": 1.0, "copy_cpus": PLENTY, "timeout_s": 60.0} | split
    config = plain.config.model_copy(update={"split": plain.config.split.model_copy(update=update)})
    by_version = dict(zip(versions, challengers, strict=True))
    return plain._replace(config=config, champion=cast(Any, InstantChampion()), challengers=cast(Any, by_version))


class Replica:
    """An engine whose reports are recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, obeys: Callable[[], bool] = lambda: True) -> None:
        self.telemetry = RecordingReporter()
        monkeypatch.setattr("deployments.inference.engine.Reporter", lambda model, count_in_flight: self.telemetry)
        # All time is idle: an idle clock reads 0 in its first milliseconds.
        monkeypatch.setattr("deployments.inference.copies.IdleClock", lambda: time.monotonic)
        self.engine = Engine(obeys)
        self.engine.start_telemetry("trips", lambda: 0)

    async def infer(
        self, state: ServingState, ids: list[str], rows: RequestRows = ONE, pinned: str | None = None
    ) -> None:
        answers = await asyncio.gather(*(self.engine.infer(state, id, rows, None, pinned) for id in ids))
        assert len(answers) == len(ids)

    async def settle(self, requests: int) -> None:
        """Wait until so many requests are reported."""
        async with asyncio.timeout(10.0):
            while sum(len(answer.requests) for answer in self.telemetry.answers) < requests:
                await asyncio.sleep(0.005)

    @property
    def outcomes(self) -> Counter[str | None]:
        """Requests by what became of their copies; each is logged once."""
        ids = [id for answer in self.telemetry.answers for id in answer.requests]
        assert len(ids) == len(set(ids))
        assert self.telemetry.announced == sum(
            answer.frame.num_rows for answer in self.telemetry.answers if answer.copied not in (None, "dropped")
        )
        return Counter(answer.copied for answer in self.telemetry.answers for _ in answer.requests)


def ids(count: int, prefix: str = "q") -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def test_copies_pair_every_request_of_the_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> tuple[Replica, ServingState]:
        replica, state = Replica(monkeypatch), copying_state(Challenger(), share=0.2)
        for burst in range(4):
            await replica.infer(state, ids(40, f"{burst}-"))
            await replica.settle(40 * (burst + 1))
        return replica, state

    replica, state = asyncio.run(run())
    split = state.config.split
    every = [f"{burst}-{i}" for burst in range(4) for i in range(40)]
    own = [id for id in every if assign_variant(split, id)]
    assert replica.outcomes == {"scored": len(every) - len(own), None: len(own)}
    log = EvidenceCollector("r", ("2",))
    for answer in replica.telemetry.answers:
        log.add_predictions(prediction_rows([answer], "b"))
    log.add_labels(label_table(dict.fromkeys(every, 1.0)))
    total = log.evidence(BINARY)["2"].total
    assert (total.champion.requests, total.challenger.requests) == (len(every) - len(own), len(own))
    assert (total.copies.requests, total.paired.n) == (len(every) - len(own), len(every))
    # Copies travel in batches of their own, whose latency says nothing about an answer's.
    assert total.challenger.latency.n == len(
        {answer.at_us for answer in replica.telemetry.answers if not answer.copied}
    )
    answers = {answer.variant for answer in replica.telemetry.answers if answer.copied}
    assert (answers, {answer.version for answer in replica.telemetry.answers if answer.copied}) == ({"champion"}, {"1"})


def test_copies_travel_together_after_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    challenger = Challenger()

    async def run() -> Replica:
        replica, state = Replica(monkeypatch), copying_state(challenger)
        for id in ids(5):
            await replica.infer(state, [id])
        assert challenger.calls == []
        await replica.settle(5)
        return replica

    assert asyncio.run(run()).outcomes == {"scored": 5}
    assert challenger.calls == [[1] * 5]


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (0.3, 0.7, 1.0)])
def test_copies_at_share_zero_are_a_fraction_of_the_keys_that_only_grows(
    shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(copies: float) -> Replica:
        replica, state = Replica(monkeypatch), copying_state(Challenger(), copies=copies)
        await replica.infer(state, ids(50))
        await replica.settle(50)
        return replica

    chosen = []
    for copies in shares:
        replica = asyncio.run(run(copies))
        chosen.append({id for answer in replica.telemetry.answers if answer.copied for id in answer.requests})
        assert {answer.assigned for answer in replica.telemetry.answers} == {"champion"}
    assert chosen[0] <= chosen[1] <= chosen[2]
    assert len(chosen[2]) == round(50 * shares[2])


def test_copies_that_the_challenger_fails_and_those_it_does_not_answer_stay_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = RequestRows(2, ([0.5, 0.5],), ("distance",))

    async def run() -> Replica:
        replica = Replica(monkeypatch)
        await replica.infer(copying_state(Challenger(fails=2)), ids(3))
        await replica.infer(copying_state(Challenger(fails=2)), ["failed"], two)
        await replica.infer(copying_state(LostChallenger()), ["lost"])
        await replica.infer(copying_state(Challenger(free=asyncio.Event()), timeout_s=0.01), ["late"])
        await replica.settle(6)
        return replica

    replica = asyncio.run(run())
    assert replica.outcomes == {"scored": 3, "failed": 1, "unanswered": 2}
    errors = {answer.requests[0]: answer.error for answer in replica.telemetry.answers if answer.copied != "scored"}
    assert errors == {
        "failed": "ValueError: no",
        "lost": "ConnectionResetError: gone",
        "late": "no answer within 0.01 s",
    }
    assert {answer.challenger_version for answer in replica.telemetry.answers} == {"2"}


def test_copies_for_a_challenger_that_hangs_delay_nothing_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    free, challengers = asyncio.Event(), []

    async def run() -> Replica:
        challengers.append(Challenger(free=free))
        replica, state = Replica(monkeypatch), copying_state(challengers[0])
        for burst in range(10):
            # These answers come although no copy does.
            async with asyncio.timeout(1.0):
                await replica.infer(state, ids(30, f"{burst}-"))
            await asyncio.sleep(0.06)
        free.set()
        await replica.settle(300)
        await replica.infer(state, ["afterward"])
        await replica.settle(301)
        return replica

    replica = asyncio.run(run())
    assert replica.outcomes == {"scored": MAX_COPIED_ROWS + 1, "dropped": 300 - MAX_COPIED_ROWS}
    assert replica.telemetry.dropped == 300 - MAX_COPIED_ROWS
    assert {sum(sizes) <= MAX_COPIED_ROWS for sizes in challengers[0].calls} == {True}


def test_copies_beyond_the_budget_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> Replica:
        replica, state = Replica(monkeypatch), copying_state(Challenger(), copy_cpus=1e-6)
        await replica.infer(state, ["first"])
        await replica.settle(1)
        await replica.infer(state, ids(20))
        await replica.settle(21)
        return replica

    # The first call has overdrawn the budget.
    assert asyncio.run(run()).outcomes == {"scored": 1, "dropped": 20}


def test_copies_go_to_one_of_several_challengers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> tuple[Replica, ServingState]:
        replica, state = Replica(monkeypatch), copying_state(Challenger("2"), Challenger("3"))
        await replica.infer(state, ids(60))
        await replica.settle(60)
        return replica, state

    replica, state = asyncio.run(run())
    assert state.config.split is not None
    by_version = Counter(choose_copy(state.config.split, id) for id in ids(60))
    assert by_version.keys() == {"2", "3"}
    assert Counter(a.challenger_version for a in replica.telemetry.answers for _ in a.requests) == by_version


@pytest.mark.parametrize(("pinned", "obeys", "report"), [("1", True, True), (None, False, True), (None, True, False)])
def test_no_copies_of_testers_without_orders_or_without_a_log(
    pinned: str | None, obeys: bool, report: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenger = Challenger()

    async def run() -> None:
        replica, state = Replica(monkeypatch, lambda: obeys), copying_state(challenger)
        state = state._replace(config=state.config.model_copy(update={"report": report}))
        await replica.infer(state, ids(5), pinned=pinned)
        await asyncio.sleep(0.1)
        assert replica.outcomes == ({None: 5} if report else {})

    asyncio.run(run())
    assert challenger.calls == []


@pytest.mark.parametrize("wait_s", [0.0, 0.1])
def test_close_reports_requests_whose_copies_are_under_way(wait_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> Replica:
        free = asyncio.Event()
        replica, state = Replica(monkeypatch), copying_state(Challenger(free=free))
        await replica.infer(state, ids(5))
        await asyncio.sleep(wait_s)
        replica.engine.close(1.0)
        reported: list[PredictionBatch] = list(replica.telemetry.answers)
        free.set()
        await asyncio.sleep(0.1)
        assert replica.telemetry.answers == reported
        return replica

    telemetry = asyncio.run(run()).telemetry
    assert Counter(answer.copied for answer in telemetry.answers for _ in answer.requests) == {"dropped": 5}
    assert telemetry.announced == 5


def test_rows_of_a_probation_are_the_rollouts_only_where_both_versions_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 was promoted, and version 2, the former champion, scores copies of half of the keys."""

    async def run() -> Replica:
        replica, state = Replica(monkeypatch), copying_state(Challenger(), share=0.0, copies=0.5)
        await replica.infer(state, ids(40))
        await replica.settle(40)
        return replica

    replica = asyncio.run(run())
    rollouts = {(answer.copied, answer.rollout, answer.share) for answer in replica.telemetry.answers}
    assert rollouts == {(None, None, None), ("scored", "r", 0.0)}
    log = EvidenceCollector("r", ("1",))
    for answer in replica.telemetry.answers:
        log.add_predictions(prediction_rows([answer], "b"))
    log.add_labels(label_table(dict.fromkeys(ids(40), 1.0)))
    total = log.evidence(BINARY)["1"].total
    assert (total.paired.n, total.champion.requests) == (replica.outcomes["scored"], 0)
    assert (total.paired.champion, total.paired.challenger) == pytest.approx((-np.log(0.25), -np.log(0.5)))
