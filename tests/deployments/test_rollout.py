"""A rollout goes only where its verdicts and orders lead, and its journal tells the same story."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.contracts import Decision
from cluster.errors import RolloutError
from deployments.judge import Verdict
from deployments.policy import RolloutPolicy
from deployments.rollout import RolloutState, advance, begin, command, entry, replay

POLICY = RolloutPolicy(steps=(0.1, 0.5, 1.0))
events = st.lists(
    st.sampled_from(["advance", "hold", "verdict-abort", "pause", "resume", "abort", "promote"]), max_size=12
)


def started() -> RolloutState:
    return begin("r1", "trips", "1", "2", POLICY, 100.0)


def verdict(kind: str) -> Verdict:
    return Verdict.model_validate({"kind": kind, "reason": f"because {kind}", "figures": {"loss": 1.0}})


def apply(state: RolloutState, event: str, now: float) -> tuple[RolloutState, Decision]:
    if event in ("advance", "hold", "verdict-abort"):
        return advance(state, verdict(event.removeprefix("verdict-")), now)
    return command(state, event, f"because {event}", now)


def test_each_advance_takes_one_step_and_the_last_promotes() -> None:
    state, seen = started(), []
    while state.active:
        state, decision = advance(state, verdict("advance"), 101.0)
        seen.append((decision.action, decision.share))
    assert seen == [("advance", 0.5), ("advance", 1.0), ("promote", 0.0)]
    assert (state.status, state.share) == ("promoted", 0.0)


def test_abort_ends_it_at_once() -> None:
    state, decision = advance(started(), verdict("abort"), 101.0)
    assert (state.status, state.share, decision.action, decision.reason) == ("aborted", 0.0, "abort", "because abort")


def test_a_paused_rollout_keeps_its_share_and_is_still_aborted_for_harm() -> None:
    state, _ = command(started(), "pause", "night", 110.0)
    held, decision = advance(state, verdict("advance"), 120.0)
    assert (held.status, held.share, decision.action) == ("paused", 0.1, "hold")
    assert advance(state, verdict("abort"), 120.0)[0].status == "aborted"


def test_the_deadline_starts_anew_after_a_pause() -> None:
    assert started().step_age_s(started().since + 5.0) == 5.0
    state, _ = command(started(), "pause", "night", 110.0)
    assert state.step_age_s(1e9) == 0.0
    assert advance(state, verdict("hold"), 120.0)[0].reason == "night"
    assert command(state, "resume", "day", 500.0)[0].since == 500.0


@pytest.mark.parametrize("order", ["pause", "resume", "abort", "promote"])
def test_orders_to_an_ended_rollout_are_refused(order: str) -> None:
    ended, _ = command(started(), "abort", "enough", 101.0)
    with pytest.raises(RolloutError, match="it is aborted"):
        command(ended, order, "", 102.0)


def test_a_version_cannot_challenge_itself() -> None:
    with pytest.raises(RolloutError, match="is the champion already"):
        begin("r1", "trips", "2", "2", POLICY, 0.0)


@pytest.mark.parametrize("steps", [(), (0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (0.5, 0.5, 1.0)])
def test_steps_must_rise_to_one(steps: tuple[float, ...]) -> None:
    with pytest.raises(RolloutError, match="rise to 1"):
        RolloutPolicy(steps=steps)


@given(events)
def test_the_journal_replays_to_the_same_state(history: list[str]) -> None:
    state = started()
    journal = [entry(state, "start", state.since, {})]
    for at, event in enumerate(history, start=101):
        try:
            state, decision = apply(state, event, float(at))
        except RolloutError:
            continue
        if decision.action != "hold":
            journal.append(decision)
    again = replay("trips", journal, POLICY)
    assert again.model_dump(exclude={"reason"}) == state.model_dump(exclude={"reason"})
    assert journal[-1].share == again.share


@given(events)
def test_shares_only_grow_until_the_end(history: list[str]) -> None:
    state, shares = started(), [0.1]
    for event in history:
        try:
            state, _ = apply(state, event, 1.0)
        except RolloutError:
            continue
        if state.active:
            shares.append(state.share)
    assert shares == sorted(shares)
