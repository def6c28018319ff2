"""Transitions of a rollout by decisions and commands, and their replay from the journal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RolloutError
from cluster.values import Decision
from deployments.analysis.verdict import RolloutDecision
from deployments.freeze_windows import FreezeWindow
from deployments.rollout.state_machine import (
    RolloutState,
    apply_command,
    apply_decision,
    begin,
    journal_entry,
    replay,
    roll_back,
)
from deployments.rollout_policy import RolloutPolicy
from tests.factories.errors import raises

POLICY = RolloutPolicy(steps=(0.1, 0.5, 1.0))
GATED = RolloutPolicy(steps=(0.1, 0.5, 1.0), gates=(0.1, 1.0), bake_s=5.0)
events = st.lists(
    st.sampled_from(["advance", "hold", "verdict-abort", "pause", "resume", "abort", "promote"]), max_size=12
)


def begin_rollout(policy: RolloutPolicy = POLICY) -> RolloutState:
    return begin("r1", "trips", "1", ("2",), policy, 100.0)


def decision_of(kind: str) -> RolloutDecision:
    values = {"kind": kind, "versions": ("2",), "reason": f"because {kind}", "figures": {"loss": 1.0}}
    return RolloutDecision.model_validate(values)


def apply(state: RolloutState, event: str, now: float) -> tuple[RolloutState, Decision]:
    if event in ("advance", "hold", "verdict-abort"):
        return apply_decision(state, decision_of(event.removeprefix("verdict-")), now)
    return apply_command(state, event, f"because {event}", now)


def test_advance_takes_one_step_and_the_last_promotes() -> None:
    state, steps = begin_rollout(), []
    while state.active:
        state, decision = apply_decision(state, decision_of("advance"), 101.0)
        steps.append((decision.action, decision.share))
    assert steps == [("advance", 0.5), ("advance", 1.0), ("promote", 0.0)]
    assert (state.status, state.share) == ("promoted", 0.0)


def test_abort_ends_the_rollout_at_once() -> None:
    state, decision = apply_decision(begin_rollout(), decision_of("abort"), 101.0)
    assert (state.status, state.share, decision.action, decision.reason) == ("aborted", 0.0, "abort", "because abort")


def test_paused_rollout_keeps_its_share_and_still_aborts() -> None:
    state, _ = apply_command(begin_rollout(), "pause", "night", 110.0)
    state_after, decision = apply_decision(state, decision_of("advance"), 120.0)
    assert (state_after.status, state_after.share, decision.action) == ("paused", 0.1, "hold")
    assert apply_decision(state, decision_of("abort"), 120.0)[0].status == "aborted"


def test_step_age_after_a_pause_restarts() -> None:
    assert begin_rollout().step_age_s(begin_rollout().since + 5.0) == 5.0
    state, _ = apply_command(begin_rollout(), "pause", "night", 110.0)
    assert state.step_age_s(1e9) == 0.0
    assert apply_decision(state, decision_of("hold"), 120.0)[0].reason == "night"
    assert apply_command(state, "resume", "day", 500.0)[0].since == 500.0


@pytest.mark.parametrize("command", ["pause", "resume", "abort", "promote"])
def test_apply_command_to_an_ended_rollout_is_refused(command: str) -> None:
    ended, _ = apply_command(begin_rollout(), "abort", "enough", 101.0)
    with raises(RolloutError, "rollout.command_not_applicable", command=command, rollout="r1", status="aborted"):
        apply_command(ended, command, "", 102.0)


@pytest.mark.parametrize("command", ["pause", "abort", "promote"])
def test_apply_command_for_another_rollout_is_refused(command: str) -> None:
    state = begin_rollout()
    with raises(RolloutError, "rollout.not_the_newest", rollout="gone", newest=state.id):
        apply_command(state, command, "", 102.0, rollout="gone")
    assert apply_command(state, command, "", 102.0, rollout=state.id) == apply_command(state, command, "", 102.0)


def test_begin_with_the_champion_as_challenger_is_refused() -> None:
    with raises(RolloutError, "rollout.challenger_is_champion", model="trips", version="2"):
        begin("r1", "trips", "2", ("2",), POLICY, 0.0)


@pytest.mark.parametrize("policy", [POLICY, GATED])
@given(events)
def test_replay_of_the_journal_restores_the_state(policy: RolloutPolicy, history: list[str]) -> None:
    state = begin_rollout(policy)
    journal = [journal_entry(state, "start", state.since, {})]
    for at, event in enumerate(history, start=101):
        try:
            # The bake is over at every second event.
            state, decision = apply(state, event, float(3 * at))
        except RolloutError:
            continue
        if decision.action != "hold" or state.remark:
            journal.append(decision)
    again = replay("trips", journal, policy)
    left_out = {"reason", "remark"}
    assert again.model_dump(exclude=left_out) == state.model_dump(exclude=left_out)
    assert journal[-1].share == again.share


def test_replay_of_a_gate_waits_until_a_person_opened_it() -> None:
    state = begin_rollout(GATED)
    waiting, gate = apply_decision(state, decision_of("advance"), 106.0)
    opened, resumed = apply_command(waiting, "resume", "looks fine", 300.0)
    journal = [journal_entry(state, "start", 100.0, {}), gate, resumed]
    at_gate, after = (replay("trips", journal[:n], GATED) for n in (2, 3))
    assert (at_gate.status, at_gate.since, at_gate.challengers) == ("waiting", 106.0, ("2",))
    assert (
        (after.status, after.since, after.opened_step)
        == ("running", 300.0, 0)
        == (
            opened.status,
            opened.since,
            opened.opened_step,
        )
    )


def test_replay_of_a_pause_without_a_gate_is_paused() -> None:
    state = begin_rollout()
    _, pause = apply_command(state, "pause", "night", 110.0)
    again = replay("trips", [journal_entry(state, "start", 100.0, {}), pause], POLICY)
    assert (again.status, again.since, again.reason, again.share) == ("paused", 110.0, "night", 0.1)


@pytest.mark.parametrize(("command", "version"), [("pause", "2"), ("resume", "2"), ("abort", "3"), ("promote", "3")])
def test_apply_command_for_a_version_that_it_cannot_name_is_refused(command: str, version: str) -> None:
    state = begin_rollout().model_copy(update={"status": "waiting"})
    with raises(RolloutError, "rollout.version_not_applicable", command=command, version=version):
        apply_command(state, command, "", 102.0, version=version)
    assert apply_command(state, command, "", 102.0)[1].action == command


@given(events)
def test_share_during_a_rollout_never_shrinks(history: list[str]) -> None:
    state, shares = begin_rollout(), [0.1]
    for event in history:
        try:
            state, _ = apply(state, event, 1.0)
        except RolloutError:
            continue
        if state.active:
            shares.append(state.share)
    assert shares == sorted(shares)


def test_bake_time_applies_to_every_step() -> None:
    state, steps = begin_rollout(RolloutPolicy(steps=(0.5, 1.0), bake_s=60.0)), []
    for now in (130.0, 159.0, 160.0, 219.0, 220.0):
        state, decision = apply_decision(state, decision_of("advance"), now)
        steps.append((decision.action, state.remark))
    assert steps == [
        ("hold", "baking at 50%"),
        ("hold", "baking at 50%"),
        ("advance", ""),
        ("hold", "baking at 100%"),
        ("promote", ""),
    ]
    assert apply_decision(begin_rollout(RolloutPolicy(bake_s=60.0)), decision_of("abort"), 101.0)[0].status == "aborted"


def test_gate_waits_for_a_person_and_opens_once() -> None:
    state, decision = apply_decision(begin_rollout(GATED), decision_of("advance"), 106.0)
    assert (state.status, state.share, decision.action, decision.share) == ("waiting", 0.1, "pause", 0.1)
    assert "gate at 10%" in decision.reason
    assert state.step_age_s(1e9) == 0.0
    assert apply_decision(state, decision_of("advance"), 200.0)[0].status == "waiting"
    assert apply_decision(state, decision_of("abort"), 200.0)[0].status == "aborted"
    opened, _ = apply_command(state, "resume", "looks fine", 300.0)
    assert opened.status == "running"
    # The bake time before the gate counts after it.
    after, decision = apply_decision(opened, decision_of("advance"), 301.0)
    assert (after.share, decision.action) == (0.5, "advance")
    assert apply_decision(after, decision_of("advance"), 307.0)[0].share == 1.0
    assert apply_command(state, "promote", "now", 300.0)[0].status == "promoted"


def test_resume_before_a_gate_does_not_open_it() -> None:
    paused, _ = apply_command(begin_rollout(GATED), "pause", "night", 101.0)
    resumed, _ = apply_command(paused, "resume", "day", 102.0)
    assert apply_decision(resumed, decision_of("advance"), 108.0)[0].status == "waiting"


def test_freeze_window_holds_an_advance_but_no_abort() -> None:
    # 1970 began on a Thursday.
    policy = RolloutPolicy(steps=(0.5, 1.0), freezes=(FreezeWindow(start="thu 00:00", end="thu 01:00"),))
    state_after, decision = apply_decision(begin_rollout(policy), decision_of("advance"), 3599.0)
    assert (decision.action, state_after.remark, "frozen" in decision.reason) == (
        "hold",
        "frozen from thu 00:00 until thu 01:00 UTC",
        True,
    )
    assert apply_decision(state_after, decision_of("advance"), 3600.0)[1].action == "advance"
    assert apply_decision(state_after, decision_of("abort"), 3599.0)[1].action == "abort"


def test_dry_run_reports_its_decisions_and_applies_none() -> None:
    state = begin_rollout(RolloutPolicy(steps=(0.1, 1.0), dry_run=True))
    for kind, would in (("advance", "advance"), ("abort", "abort")):
        after, decision = apply_decision(state, decision_of(kind), 1e6)
        assert (after.status, after.share, decision.action) == ("running", 0.1, "hold")
        assert (after.remark, f"would {would}: because {kind}" in decision.reason) == (f"dry run: {would}", True)
    assert apply_command(state, "abort", "seen enough", 1e6)[0].status == "aborted"
    single = begin_rollout(RolloutPolicy(steps=(1.0,), dry_run=True))
    assert apply_decision(single, decision_of("advance"), 1e6)[0].remark == "dry run: promote"


@pytest.mark.parametrize(("end", "replaced"), [("promote", "2"), ("abort", "1")])
def test_roll_back_is_journaled_and_replayed(end: str, replaced: str) -> None:
    state, decision = apply_command(begin_rollout(), end, "by hand", 101.0)
    with raises(RolloutError, "rollout.in_progress", model="trips", rollout="r1"):
        roll_back(begin_rollout(), "0", "worse", 102.0)
    back, last = roll_back(state, "0", "worse", 102.0)
    assert (back.status, back.answering_version, back.share, back.active) == ("rolled back", "0", 0.0, False)
    assert (last.action, last.champion, last.challengers) == ("rollback", "0", (replaced,))
    again = replay("trips", [journal_entry(begin_rollout(), "start", 100.0, {}), decision, last], POLICY)
    assert (again.status, again.answering_version, again.reason) == (back.status, "0", "worse")
    assert roll_back(again, "1", "on second thoughts", 103.0)[1].challengers == ("0",)


def invalid_decision() -> RolloutDecision:
    return decision_of("invalid").model_copy(update={"check": "labels", "remark": "invalid: labels"})


@pytest.mark.parametrize("before", ["running", "paused", "waiting"])
def test_invalid_evidence_pauses_the_rollout_at_its_step(before: str) -> None:
    state = begin_rollout().model_copy(update={"status": before})
    state, entry = apply_decision(state, invalid_decision(), 110.0)
    assert (state.status, state.check, state.share, state.step_age_s(1e9)) == ("invalid", "labels", 0.1, 0.0)
    assert (entry.action, entry.share, entry.reason) == ("invalid", 0.1, "because invalid")
    for kind, status in (("advance", "invalid"), ("invalid", "invalid"), ("hold", "invalid"), ("abort", "aborted")):
        after, entry = apply_decision(state, decision_of(kind), 120.0)
        assert (after.status, entry.action) == (status, "abort" if kind == "abort" else "hold")


def test_invalid_evidence_pauses_a_dry_run_too() -> None:
    state = begin_rollout(POLICY.model_copy(update={"dry_run": True}))
    assert apply_decision(state, invalid_decision(), 110.0)[0].status == "invalid"


def test_resume_of_an_invalid_rollout_sets_its_evidence_aside() -> None:
    start = begin_rollout(GATED)
    state, invalid = apply_decision(start, invalid_decision(), 110.0)
    paused, pause = apply_command(state, "pause", "night", 115.0)
    resumed, resume = apply_command(paused, "resume", "day", 120.0)
    assert (resumed.status, resumed.check, resumed.since, resumed.evidence_since) == ("running", "", 120.0, 120.0)
    # The gate is still closed.
    assert resumed.at_closed_gate
    entries = [journal_entry(start, "start", 100.0, {}), invalid]
    assert replay("trips", entries, GATED) == state
    assert replay("trips", [*entries, pause, resume], GATED) == resumed
    plain, _ = apply_command(apply_command(start, "pause", "night", 115.0)[0], "resume", "day", 120.0)
    assert plain.evidence_since == 0.0
