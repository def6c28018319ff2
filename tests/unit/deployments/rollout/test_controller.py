"""The controller without Ray: while stores hang, an abort takes the traffic off at once, and is journaled later."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import CallTimeout, RolloutError, WriterReplaced
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import ModelVersion, MoveMark
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.validity.validity_evidence import NOTHING_HELD_OUT, Suspects, ValidityEvidence
from deployments.label_delay import follow_label_delay
from deployments.rollout import controller, reconciler
from deployments.rollout.controller import RolloutController
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.reconciler import Reconciler
from deployments.rollout.rollout_status import RolloutStatus
from deployments.rollout.state_machine import apply_command, begin, journal_entry
from deployments.rollout_policy import DAY_S, RolloutPolicy
from deployments.serve_schema import Halt, ServerConfig, TrafficSplit
from tests.factories.deployments.memory_tables import MemoryTables
from tests.factories.errors import raises
from tests.factories.golden import samples

MODEL = "m"
POLICY = RolloutPolicy(steps=(0.3, 1.0), poll_s=0.05)
LIMIT_S = 0.3


def version(number: str) -> ModelVersion:
    return ModelVersion(model=MODEL, version=number, run_id="r", bundle_uri="/nowhere")


class Actor:
    """A handle whose methods are those of ``target``; without the method, a call never ends."""

    def __init__(self, target: object = None) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._target, name, None) or forever
        return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(method(*args)))


class Gauge:
    """The gauge of a rollout that is invalid."""

    tags: dict[str, str] | None = None

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.tags = tags

    def clear(self) -> None:
        self.tags = None


async def forever(*unused: object) -> None:
    await asyncio.Event().wait()


class ConfigWriter:
    """Serve's configuration of one model."""

    def __init__(self) -> None:
        self.config = ServerConfig(champion=version("1"))
        self.halts: list[float] = []

    async def current_config(self, model: str) -> ServerConfig:
        return self.config

    async def has_challenger(self, *unused: str) -> bool:
        return True

    async def set_rollout(self, model: str, split: TrafficSplit, epoch: int) -> None:
        self.config = self.config.model_copy(update={"split": split})

    async def retain_challengers(self, *unused: object) -> None:
        pass

    async def set_champion(self, champion: ModelVersion, epoch: int) -> None:
        self.config = self.config.model_copy(update={"champion": champion, "split": None})

    async def halt_challengers(self, model: str, halt: Halt, epoch: int | None = None) -> None:
        self.halts.append(time.monotonic())
        self.config = self.config.model_copy(update={"split": None, "halt": halt})


class Claim:
    """A claim in memory; each newer one has a higher epoch."""

    newest = 0

    def __init__(self, epoch: int) -> None:
        self.writer, self.epoch = f"rollout:{MODEL}", epoch

    @classmethod
    def take(cls, *unused: object) -> Claim:
        Claim.newest += 1
        return cls(Claim.newest)

    def renew(self) -> Claim:
        self.check()
        return self.take()

    def check(self) -> None:
        if self.epoch != Claim.newest:
            fields = {"writer": self.writer, "epoch": self.epoch, "newest": Claim.newest}
            raise WriterReplaced("cluster.writer_replaced", **fields)


class Stores:
    """Catalog and MLflow; while they hang, a call waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answering = threading.Event()
        self.answering.set()
        monkeypatch.setattr(Registry, "version", lambda _, model, number: version(number))
        self.mark: MoveMark | None = None
        monkeypatch.setattr(Registry, "move", lambda *_: self.mark)
        monkeypatch.setattr(reconciler, "session_name", lambda: "session_1")
        for name in ("set_alias", "clear_alias"):
            monkeypatch.setattr(Registry, name, lambda *_: None)
        self.tables: Any = MemoryTables()
        monkeypatch.setattr(controller, "Tables", lambda settings, claim=None: MemoryTables(self.tables.rows, claim))
        monkeypatch.setattr(controller, "Claim", Claim)
        monkeypatch.setattr(controller, "end_actor", lambda: self.ended.append(None))
        self.ended: list[None] = []
        for owner, names in ((Registry, ("version", "set_alias", "clear_alias")), (MemoryTables, ("append", "read"))):
            for name in names:
                monkeypatch.setattr(owner, name, self._waiting(getattr(owner, name)))

    def _waiting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_call(*args: Any, **options: Any) -> Any:
            self.answering.wait()
            return method(*args, **options)

        return wait_and_call


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> ConfigWriter:
    writer = ConfigWriter()
    monkeypatch.setattr(reconciler, "connect_config_writer", lambda settings: Actor(writer))
    # The log writer never answers.
    monkeypatch.setattr(controller, "connect_log_writer", lambda model, settings: Actor())
    monkeypatch.setattr(Reconciler, "task", lambda *_: asyncio.sleep(0, samples.BINARY))
    monkeypatch.setattr(Reconciler, "held_out", lambda *_: asyncio.sleep(0, NOTHING_HELD_OUT))
    for module, name in ((controller, "STORE_S"), (controller, "EVIDENCE_S"), (reconciler, "STORE_S")):
        monkeypatch.setattr(module, name, LIMIT_S)
    return writer


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    stores = Stores(monkeypatch)
    yield stores
    stores.answering.set()


async def until(holds: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def test_model_that_moves_starts_no_rollout(serve: ConfigWriter, stores: Stores) -> None:
    async def scenario() -> None:
        actor = await start()
        for mark in (MoveMark(cluster="session_0", share=0.5), MoveMark(cluster="session_1", share=1.0)):
            stores.mark = mark
            with raises(RolloutError, "rollout.model_moving", model=MODEL, percent=100 * mark.share):
                await actor.start(version("2"), POLICY)
        assert (await actor.status()).state is None
        stores.mark = MoveMark(cluster="session_0", share=1.0)
        await actor.start(version("2"), POLICY)

    asyncio.run(scenario())
    assert serve.config.split is not None


async def start() -> Any:
    actor: Any = RolloutController.__new__(RolloutController)
    await actor.__init__(MODEL, Settings())
    return actor


async def resumed(stores: Stores, serve: ConfigWriter) -> Any:
    """A controller that has resumed a rollout of version 2, and applied it."""
    state = begin("r", MODEL, "1", ("2",), POLICY, time.time())
    RolloutJournal(MODEL, stores.tables).record(journal_entry(state, "start", state.since, {}), POLICY)
    actor = await start()
    await until(lambda: serve.config.split is not None, "the rollout is applied")
    return actor


def test_abort_takes_the_traffic_off_at_once_while_every_store_hangs(serve: ConfigWriter, stores: Stores) -> None:
    async def run() -> None:
        actor = await resumed(stores, serve)
        stores.answering.clear()
        ordered = time.monotonic()
        order = asyncio.ensure_future(actor.abort("harm"))
        await until(lambda: bool(serve.halts), "the challenger is halted")
        assert serve.halts[0] - ordered < 1.0
        # The order itself ends, although nothing can be journaled.
        with pytest.raises(CallTimeout):
            await asyncio.wait_for(order, 20.0)
        assert serve.config.split is None
        stores.answering.set()
        await until(lambda: actor._state.status == "aborted" and actor._applied, "a pass journals the abort")
        # What hung came too late to be journaled too.
        assert [d.action for d in (await actor.status()).decisions] == ["start", "abort"]
        assert (await actor.status()).state.reason == "harm"

    asyncio.run(run())


def test_entry_without_a_clear_answer_is_read_again_before_the_next(
    serve: ConfigWriter, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = MemoryTables.append

    def lose_the_answer(*args: Any, **options: Any) -> None:
        append(*args, **options)
        raise ConnectionError

    async def run() -> None:
        actor = await resumed(stores, serve)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryTables, "append", lose_the_answer)
            with pytest.raises(ConnectionError):
                await actor.pause("night")
        await actor.resume("day")
        assert [d.action for d in (await actor.status()).decisions] == ["start", "pause", "resume"]

    asyncio.run(run())


def test_controller_resumes_once_the_catalog_answers(serve: ConfigWriter, stores: Stores) -> None:
    async def run() -> None:
        await resumed(stores, serve)
        stores.answering.clear()
        actor = await start()
        with pytest.raises(CallTimeout):
            await actor.status()
        stores.answering.set()
        assert (await actor.status()).state.status == "running"

    asyncio.run(run())


def test_abort_by_a_controller_that_cannot_read_the_journal_takes_the_traffic_off(
    serve: ConfigWriter, stores: Stores
) -> None:
    async def run() -> None:
        first = await resumed(stores, serve)
        first._loop.cancel()
        stores.answering.clear()
        actor = await start()
        with pytest.raises(CallTimeout):
            await asyncio.wait_for(actor.abort("harm"), 20.0)
        assert (serve.config.split, len(serve.halts)) == (None, 1)
        stores.answering.set()
        await until(lambda: bool(serve.config.halt and actor._state and actor._applied), "a pass journals the abort")
        status = await actor.status()
        assert ([d.action for d in status.decisions], status.state.reason) == (["start", "abort"], "harm")

    asyncio.run(run())


def test_controller_that_was_replaced_writes_nothing_and_ends(serve: ConfigWriter, stores: Stores) -> None:
    async def run() -> None:
        first = await resumed(stores, serve)
        second = await start()
        assert (await second.pause("night")).state.status == "paused"
        with raises(WriterReplaced, "cluster.writer_replaced", writer=f"rollout:{MODEL}"):
            await first.pause("go")
        assert stores.ended
        assert [d.action for d in (await second.status()).decisions] == ["start", "pause"]

    asyncio.run(run())


class EvidenceOfLabels:
    """A log writer that says by labels that version 2 is worse, or not, and what the checks of its rows say."""

    def __init__(self, harm: float, validity: ValidityEvidence | None = None) -> None:
        chance = np.random.default_rng(0)
        champion = chance.gamma(2.0, 0.25, 2_000)
        losses = PairedMoments.from_losses(champion, champion * (1.0 + harm) + chance.normal(0.0, 0.05, 2_000))
        self._evidence = RolloutEvidence(by_share={1.0: ComparisonEvidence(paired=losses)}, validity=validity)

    async def evidence(self, rollout: str, challengers: tuple[str, ...], *unused: object) -> dict[str, RolloutEvidence]:
        return dict.fromkeys(challengers, self._evidence)


SLOW_LABELS = follow_label_delay(POLICY, 90 * DAY_S)


async def on_probation(stores: Stores, serve: ConfigWriter, policy: RolloutPolicy = SLOW_LABELS) -> Any:
    """A controller that resumes after version 2 was promoted on health."""
    state, journal = begin("r", MODEL, "1", ("2",), policy, time.time()), RolloutJournal(MODEL, stores.tables)
    journal.record(journal_entry(state, "start", state.since, {}), policy)
    journal.record(apply_command(state, "promote", "by hand", time.time())[1], policy)
    serve.config = ServerConfig(champion=version("2"))
    return await start()


def test_former_champion_scores_copies_until_labels_decide(serve: ConfigWriter, stores: Stores) -> None:
    async def run() -> None:
        actor = await on_probation(stores, serve)
        await until(lambda: serve.config.split is not None and actor._applied, "copies are sent")

    asyncio.run(run())
    split = serve.config.split
    assert split is not None
    assert (serve.config.champion.version, split.share, split.copies) == ("2", 0.0, SLOW_LABELS.probation_share)
    assert [former.version for former in split.challengers] == ["1"]


async def actions_until(actor: Any, action: str) -> list[str]:
    await until(lambda: actor._state is not None and not actor._state.on_probation and actor._applied, action)
    return [decision.action for decision in (await actor.status()).decisions]


@pytest.mark.parametrize(("harm", "action", "champion"), [(0.2, "rollback", "1"), (0.0, "confirm", "2")])
def test_labels_after_a_promotion_on_health_roll_back_or_confirm(
    serve: ConfigWriter, stores: Stores, monkeypatch: pytest.MonkeyPatch, harm: float, action: str, champion: str
) -> None:
    monkeypatch.setattr(controller, "connect_log_writer", lambda *_: Actor(EvidenceOfLabels(harm)))

    async def run() -> None:
        actor = await on_probation(stores, serve)
        assert await actions_until(actor, action) == ["start", "promote", action]
        # A controller that starts now finds the same.
        again = await start()
        assert (await again.status()).state.answering_version == champion
        await until(lambda: again._applied, "it is applied again")

    asyncio.run(run())
    assert (serve.config.champion.version, serve.config.split) == (champion, None)


def test_canary_that_fails_a_check_is_shown_and_alerted_on_during_the_probation(
    serve: ConfigWriter, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    misassigned = ValidityEvidence(misassigned=Suspects(rows=9, ids=("order-1",)))
    gauge = Gauge()
    monkeypatch.setattr(controller, "PersistentGauge", lambda *_: gauge)
    monkeypatch.setattr(controller, "connect_log_writer", lambda *_: Actor(EvidenceOfLabels(0.2, misassigned)))

    async def run() -> RolloutStatus:
        actor = await on_probation(stores, serve)
        await until(lambda: gauge.tags == {"model": MODEL, "check": "variant"}, "the alert fires")
        shown: RolloutStatus = await actor.status()
        await actor.start(version("3"), POLICY)
        await until(lambda: gauge.tags is None, "the alert ends with the probation")
        assert (await actor.status()).late_verdict is None
        return shown

    status = asyncio.run(run())
    assert [d.action for d in status.decisions] == ["start", "promote"]
    assert status.late_verdict is not None
    assert (status.late_verdict.action, status.late_verdict.check) == ("hold", "variant")


def test_harm_that_only_alarms_is_alerted_on_until_the_next_rollout(
    serve: ConfigWriter, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauges: dict[str, Gauge] = {}
    monkeypatch.setattr(controller, "PersistentGauge", lambda name, *_: gauges.setdefault(name, Gauge()))
    monkeypatch.setattr(controller, "connect_log_writer", lambda *_: Actor(EvidenceOfLabels(0.2)))

    async def run() -> None:
        actor = await on_probation(stores, serve, SLOW_LABELS.model_copy(update={"on_late_harm": "alarm"}))
        gauge = gauges["rayloop_late_harm"]
        await until(lambda: gauge.tags == {"model": MODEL, "version": "2"}, "the alert fires")
        assert await actions_until(actor, "alarm") == ["start", "promote", "alarm"]
        # A controller that starts now finds the same.
        gauges.clear()
        again = await start()
        gauge = gauges["rayloop_late_harm"]
        await until(lambda: gauge.tags == {"model": MODEL, "version": "2"}, "the alert fires again")
        await again.start(version("3"), POLICY)
        await until(lambda: gauge.tags is None, "the alert ends with the next rollout")

    asyncio.run(run())
    assert serve.config.champion.version == "2"


def test_rollout_that_starts_during_a_probation_supersedes_it(serve: ConfigWriter, stores: Stores) -> None:
    async def run() -> None:
        actor = await on_probation(stores, serve)
        await until(lambda: actor._state is not None and actor._applied, "the promotion is applied")
        await actor.start(version("3"), POLICY)
        assert (await actor.status()).state.challengers == ("3",)

    asyncio.run(run())
    actions = [decision.action for decision in RolloutJournal(MODEL, stores.tables).decisions()]
    assert actions == ["start", "promote", "supersede", "start"]
