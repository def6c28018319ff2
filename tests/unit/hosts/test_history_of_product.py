"""What the product's own parts do is a correct history: the checker's rules are not narrower than the product's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import RolloutError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Decision
from deployments.analysis.verdict import RolloutDecision
from deployments.rollout import state_machine
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.state_machine import RolloutState
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.prediction_log import prediction_rows
from deployments.traffic_split import find_slice
from tests.factories.deployments.predictions import label_table, prediction_batch
from tests.factories.effort import examples
from tests.hosts.history.check import check
from tests.hosts.history.events import OK, Entry, History, Label, Order, PredictionRow, Request
from tests.hosts.history.rollouts import illegal_steps
from tests.hosts.history.variants import answers_by_row, misplaced_keys, moved_keys
from tests.hosts.load import Account, LabelRecord, LoadPlan, Record
from tests.hosts.recorder import client_events, join
from tests.hosts.store_reader import read_stores

ACTIONS = st.sampled_from(
    ["advance", "advance", "advance", "choose", "drop", "abort", "pause", "resume", "order abort", "promote", "restart"]
)
POLICIES = [
    RolloutPolicy(steps=(0.1, 0.5, 1.0)),
    RolloutPolicy(steps=(0.25, 0.5, 1.0), gates=(0.5, 1.0)),
    RolloutPolicy(steps=(0.2, 1.0), gates=(0.2,)),
]


class _Rollouts:
    """Rollouts of the product's state machine, their journal, and the splits that replicas have meanwhile."""

    def __init__(self, challengers: int, policy: RolloutPolicy) -> None:
        self._versions, self._policy = tuple(str(2 + i) for i in range(challengers)), policy
        self.entries: list[Entry] = []
        self.orders: list[Order] = []
        self.rows: list[PredictionRow] = []
        self._begin("1")

    def _begin(self, champion: str) -> None:
        trial = tuple(version for version in ("1", *self._versions) if version != champion)[: len(self._versions)]
        rollout = f"r{len(self.entries)}"
        self.state = state_machine.begin(rollout, "m", champion, trial, self._policy, 0.0)
        self._append(state_machine.journal_entry(self.state, "start", 0.0, {}))

    def apply(self, number: int, action: str) -> None:
        """Let it happen, where it may."""
        reason = f"{action} {number}"
        if action == "restart":
            if not self.state.active:
                self._begin(self.state.answering_version)
            return
        try:
            self.state, decision = self._step(action, reason)
        except (RolloutError, IndexError):
            return
        if decision.action != "hold":
            self._append(decision)
            if action in ("order abort", "promote"):
                self.orders.append(Order(decision.action, reason, self.state.id, 0.0, 1.0, decision.action != "drop"))

    def _step(self, action: str, reason: str) -> tuple[RolloutState, Decision]:
        version = self.state.challengers[0]
        match action:
            case "advance" | "choose":
                chooses = action == "choose" or self.state.chooses_next
                versions = (version,) if chooses else self.state.challengers
                return self._decide("advance", versions, reason)
            case "drop" | "abort":
                return self._decide(action, (version,) if action == "drop" else self.state.challengers, reason)
            case "promote":
                return state_machine.apply_command(self.state, "promote", reason, 1.0, version)
            case "order abort":
                return state_machine.apply_command(self.state, "abort", reason, 1.0)
            case "pause":
                return state_machine.apply_command(self.state, "pause", reason, 1.0)
        return state_machine.apply_command(self.state, "resume", reason, 1.0)

    def _decide(self, kind: Any, versions: tuple[str, ...], reason: str) -> tuple[RolloutState, Decision]:
        decision = RolloutDecision(kind=kind, versions=versions, reason=reason, figures={})
        return state_machine.apply_decision(self.state, decision, 1.0)

    def _append(self, decision: Decision) -> None:
        entry = Entry(
            len(self.entries) + 1,
            1,
            decision.rollout,
            decision.action,
            decision.share,
            decision.champion,
            decision.challengers,
            decision.reason,
            "gate" in decision.evidence,
            self._policy.steps,
            self._policy.gates,
        )
        self.entries.append(entry)
        if self.state.active:
            self.rows += [self._answer(f"k{i}") for i in range(20)]

    def _answer(self, key: str) -> PredictionRow:
        state = self.state
        index = find_slice(state.id, key, state.share, state.starts)
        version = None if index is None else state.challengers[index]
        variant = "champion" if version is None else "challenger"
        return PredictionRow(
            id=f"p{len(self.rows)}:{key}",
            batch="a:1",
            key=key,
            rollout=state.id,
            share=state.share,
            forced=False,
            assigned=variant,
            variant=variant,
            version=version or state.champion,
            challenger=version,
            error=None,
            score=0.5,
        )


@settings(max_examples=examples(2000))
@given(st.integers(1, 3), st.sampled_from(POLICIES), st.lists(ACTIONS, max_size=20))
def test_journal_and_splits_of_the_state_machine_break_no_rule(
    challengers: int, policy: RolloutPolicy, actions: list[str]
) -> None:
    rollouts = _Rollouts(challengers, policy)
    for number, action in enumerate(actions):
        rollouts.apply(number, action)
    history = History(
        journal=tuple(rollouts.entries), orders=tuple(rollouts.orders), rows=tuple(rollouts.rows), first_champion="1"
    )
    for rule in (illegal_steps, answers_by_row, moved_keys, misplaced_keys):
        assert list(rule(history)) == []


class _Aliases:
    def version_by_alias(self, model: str, alias: str) -> Any:
        return SimpleNamespace(version="1") if alias == "champion" else None


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def test_stores_are_read_into_a_history_without_violations(tables: Tables) -> None:
    policy = RolloutPolicy(steps=(0.5, 1.0))
    state = state_machine.begin("r", "m", "1", ("2",), policy, 0.0)
    RolloutJournal("m", tables, 7).record(state_machine.journal_entry(state, "start", 0.0, {}), policy)
    state, abort = state_machine.apply_command(state, "abort", "too slow", 1.0)
    RolloutJournal("m", tables, 9).record(abort, policy)
    early = next(f"k{i}" for i in range(99) if find_slice("r", f"k{i}", 0.5) is not None)
    late = next(f"k{i}" for i in range(99) if find_slice("r", f"k{i}", 0.5) is None)
    batches = [prediction_batch("a-0", key=late), prediction_batch("a-1", 0.5, 0.75, key=early)]
    tables.append("m.predictions", prediction_rows(batches, "replica:1"), key="ledger:m@session:3:1")
    without = prediction_batch("a-2", key=early, rollout=None, share=None)
    tables.append("m.predictions", prediction_rows([without], "replica:2"), key="ledger:m@session:4:2")
    tables.append("m.labels", label_table({"a-0": 1.0}), key="ledger:m@session:4:3")

    tables.append("m.lost", pa.table({"replica": ["a"], "predictions": [2], "labels": [1]}), key="a")

    assert [row.id for row in read_stores("m", tables, _Aliases(), "a-1").rows] == ["a-1"]
    history = read_stores("m", tables, _Aliases())
    assert (history.lost_predictions, history.lost_labels) == (2, 1)
    assert [(entry.sequence, entry.epoch, entry.action) for entry in history.journal] == [
        (1, 7, "start"),
        (2, 9, "abort"),
    ]
    assert history.journal[0].steps == (0.5, 1.0)
    assert {(commit.writer, commit.epoch) for commit in history.commits} == {
        ("rollout:m", 7),
        ("rollout:m", 9),
        ("ledger:m@session", 3),
        ("ledger:m@session", 4),
    }
    requests = (
        Request("a-0", late, "w", 1.0, 1.1, OK, "1", "champion", 0.5),
        Request("a-1", early, "w", 2.0, 2.1, OK, "2", "challenger", 0.75),
        Request("a-2", early, "w", 3.0, 3.1, OK, "1", "champion", 0.5),
    )
    events = History(
        requests=requests,
        labels=(Label("a-0", 1.0, "w", 1.2, 1.3, OK),),
        orders=(Order("abort", "too slow", "r", 2.5, 2.6, True),),
        hosts=("w",),
    )
    whole = join(events, history, History(lost_predictions=2, lost_labels=1))
    assert check(whole) == []
    moved = (requests[0], requests[1]._replace(version="1", variant="champion"), requests[2])
    assert [violation.rule for violation in check(whole._replace(requests=moved))] == ["answers and their rows"]


def test_journal_with_two_writers_shows_both_epochs(tables: Tables) -> None:
    """A writer that does not know of a newer one gives its entry a number of its own count."""
    policy = RolloutPolicy(steps=(0.5, 1.0))
    state = state_machine.begin("r", "m", "1", ("2",), policy, 0.0)
    old, new = RolloutJournal("m", tables, 7), RolloutJournal("m", tables, 9)
    old.record(state_machine.journal_entry(state, "start", 0.0, {}), policy)
    _, paused = state_machine.apply_command(state, "pause", "new writer", 1.0)
    new.record(paused, policy)
    _, aborted = state_machine.apply_command(state, "abort", "old writer", 1.0)
    old.record(aborted, policy)
    history = read_stores("m", tables, _Aliases())
    assert [(entry.sequence, entry.epoch) for entry in history.journal] == [(1, 7), (2, 9), (2, 7)]
    assert {violation.rule for violation in check(history)} >= {"numbers of the journal", "one writer"}


def test_what_a_load_saw_is_in_the_history_under_its_ids() -> None:
    plan = LoadPlan("http://worker1", rate=1.0, keys=3, name="seed1")
    answered = Record(0, 0.0, 0.1, 0.2, OK, "2", "challenger", 0.75)
    failed = Record(1, 1.0, 1.1, 6.1, "timeout")
    account = Account(2, [answered, failed], (LabelRecord(0, 1.0, 0.3, 0.4, "503"),))
    requests, labels = client_events(plan, account, "worker1")
    assert requests == [
        Request(*plan.prediction(0), "worker1", 0.1, 0.2, OK, "2", "challenger", 0.75),
        Request(*plan.prediction(1), "worker1", 1.1, 6.1, "timeout"),
    ]
    assert labels == [Label("seed1-0", 1.0, "worker1", 0.3, 0.4, "503")]
