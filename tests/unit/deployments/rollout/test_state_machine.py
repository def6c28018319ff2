"""A rollout goes only where its verdicts and orders lead, and its journal tells the same story."""

from datetime import UTC, datetime

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
from deployments.rollout_policy import RolloutPolicy, Webhook
from tests.factories.errors import raises

POLICY = RolloutPolicy(steps=(0.1, 0.5, 1.0))
GATED = RolloutPolicy(steps=(0.1, 0.5, 1.0), gates=(0.1, 1.0), bake_s=5.0)
events = st.lists(
    st.sampled_from(["advance", "hold", "verdict-abort", "pause", "resume", "abort", "promote"]), max_size=12
)


def started(policy: RolloutPolicy = POLICY) -> RolloutState:
    return begin("r1", "trips", "1", ("2",), policy, 100.0)


def ruling(kind: str) -> RolloutDecision:
    told = {"kind": kind, "versions": ("2",), "reason": f"because {kind}", "figures": {"loss": 1.0}}
    return RolloutDecision.model_validate(told)


def apply(state: RolloutState, event: str, now: float) -> tuple[RolloutState, Decision]:
    if event in ("advance", "hold", "verdict-abort"):
        return apply_decision(state, ruling(event.removeprefix("verdict-")), now)
    return apply_command(state, event, f"because {event}", now)


def test_each_advance_takes_one_step_and_the_last_promotes() -> None:
    state, seen = started(), []
    while state.active:
        state, decision = apply_decision(state, ruling("advance"), 101.0)
        seen.append((decision.action, decision.share))
    assert seen == [("advance", 0.5), ("advance", 1.0), ("promote", 0.0)]
    assert (state.status, state.share) == ("promoted", 0.0)


def test_abort_ends_it_at_once() -> None:
    state, decision = apply_decision(started(), ruling("abort"), 101.0)
    assert (state.status, state.share, decision.action, decision.reason) == ("aborted", 0.0, "abort", "because abort")


def test_a_paused_rollout_keeps_its_share_and_is_still_aborted_for_harm() -> None:
    state, _ = apply_command(started(), "pause", "night", 110.0)
    held, decision = apply_decision(state, ruling("advance"), 120.0)
    assert (held.status, held.share, decision.action) == ("paused", 0.1, "hold")
    assert apply_decision(state, ruling("abort"), 120.0)[0].status == "aborted"


def test_the_deadline_starts_anew_after_a_pause() -> None:
    assert started().step_age_s(started().since + 5.0) == 5.0
    state, _ = apply_command(started(), "pause", "night", 110.0)
    assert state.step_age_s(1e9) == 0.0
    assert apply_decision(state, ruling("hold"), 120.0)[0].reason == "night"
    assert apply_command(state, "resume", "day", 500.0)[0].since == 500.0


@pytest.mark.parametrize("order", ["pause", "resume", "abort", "promote"])
def test_orders_to_an_ended_rollout_are_refused(order: str) -> None:
    ended, _ = apply_command(started(), "abort", "enough", 101.0)
    with raises(RolloutError, "rollout.command_not_applicable", command=order, rollout="r1", status="aborted"):
        apply_command(ended, order, "", 102.0)


@pytest.mark.parametrize("order", ["pause", "abort", "promote"])
def test_an_order_for_another_rollout_is_refused(order: str) -> None:
    state = started()
    with raises(RolloutError, "rollout.not_the_newest", rollout="gone", newest=state.id):
        apply_command(state, order, "", 102.0, rollout="gone")
    assert apply_command(state, order, "", 102.0, rollout=state.id) == apply_command(state, order, "", 102.0)


def test_a_version_cannot_challenge_itself() -> None:
    with raises(RolloutError, "rollout.challenger_is_champion", model="trips", version="2"):
        begin("r1", "trips", "2", ("2",), POLICY, 0.0)


@pytest.mark.parametrize("steps", [(), (0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (0.5, 0.5, 1.0)])
def test_steps_must_rise_to_one(steps: tuple[float, ...]) -> None:
    with raises(RolloutError, "rollout.steps_not_rising_to_one", steps=steps):
        RolloutPolicy(steps=steps)


@pytest.mark.parametrize("policy", [POLICY, GATED])
@given(events)
def test_the_journal_replays_to_the_same_state(policy: RolloutPolicy, history: list[str]) -> None:
    state = started(policy)
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


def test_a_step_takes_its_bake_time_also_the_last_one() -> None:
    state, seen = started(RolloutPolicy(steps=(0.5, 1.0), bake_s=60.0)), []
    for now in (130.0, 159.0, 160.0, 219.0, 220.0):
        state, decision = apply_decision(state, ruling("advance"), now)
        seen.append((decision.action, state.remark))
    assert seen == [
        ("hold", "bakes at 50%"),
        ("hold", "bakes at 50%"),
        ("advance", ""),
        ("hold", "bakes at 100%"),
        ("promote", ""),
    ]
    assert apply_decision(started(RolloutPolicy(bake_s=60.0)), ruling("abort"), 101.0)[0].status == "aborted"


def test_a_gate_waits_for_a_person_and_is_opened_once() -> None:
    state, decision = apply_decision(started(GATED), ruling("advance"), 106.0)
    assert (state.status, state.share, decision.action, decision.share) == ("waiting", 0.1, "pause", 0.1)
    assert "gate at 10%" in decision.reason
    assert state.step_age_s(1e9) == 0.0
    assert apply_decision(state, ruling("advance"), 200.0)[0].status == "waiting"
    assert apply_decision(state, ruling("abort"), 200.0)[0].status == "aborted"
    opened, _ = apply_command(state, "resume", "looks fine", 300.0)
    assert opened.status == "running"
    # What has baked before the gate need not bake again.
    after, decision = apply_decision(opened, ruling("advance"), 301.0)
    assert (after.share, decision.action) == (0.5, "advance")
    assert apply_decision(after, ruling("advance"), 307.0)[0].share == 1.0
    assert apply_command(state, "promote", "now", 300.0)[0].status == "promoted"


def test_a_pause_before_the_gate_does_not_open_it() -> None:
    paused, _ = apply_command(started(GATED), "pause", "night", 101.0)
    resumed, _ = apply_command(paused, "resume", "day", 102.0)
    assert apply_decision(resumed, ruling("advance"), 108.0)[0].status == "waiting"


def test_nothing_advances_in_a_freeze_and_harm_aborts() -> None:
    # 1970 began on a Thursday.
    policy = RolloutPolicy(steps=(0.5, 1.0), freezes=(FreezeWindow(start="thu 00:00", end="thu 01:00"),))
    held, decision = apply_decision(started(policy), ruling("advance"), 3599.0)
    assert (decision.action, held.remark, "frozen" in decision.reason) == (
        "hold",
        "frozen from thu 00:00 until thu 01:00 UTC",
        True,
    )
    assert apply_decision(held, ruling("advance"), 3600.0)[1].action == "advance"
    assert apply_decision(held, ruling("abort"), 3599.0)[1].action == "abort"


def test_a_dry_run_tells_what_it_would_do_and_does_it_not() -> None:
    state = started(RolloutPolicy(steps=(0.1, 1.0), dry_run=True))
    for kind, would in (("advance", "advance"), ("abort", "abort")):
        after, decision = apply_decision(state, ruling(kind), 1e6)
        assert (after.status, after.share, decision.action) == ("running", 0.1, "hold")
        assert (after.remark, f"would {would}: because {kind}" in decision.reason) == (f"dry run: {would}", True)
    assert apply_command(state, "abort", "seen enough", 1e6)[0].status == "aborted"
    single = started(RolloutPolicy(steps=(1.0,), dry_run=True))
    assert apply_decision(single, ruling("advance"), 1e6)[0].remark == "dry run: promote"


@pytest.mark.parametrize(
    ("start", "end", "zone", "inside", "outside"),
    [
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-05-03T14:00", "2024-05-03T13:59"),
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-05-06T05:59", "2024-05-06T06:00"),
        # The same window by the same clocks, in winter.
        ("fri 16:00", "mon 08:00", "Europe/Berlin", "2024-01-05T15:00", "2024-01-05T14:59"),
        ("tue 09:00", "tue 10:30", "UTC", "2024-05-07T10:29", "2024-05-07T10:30"),
    ],
)
def test_freeze_windows_follow_the_clocks_of_their_zone(
    start: str, end: str, zone: str, inside: str, outside: str
) -> None:
    window = FreezeWindow(start=start, end=end, zone=zone)
    moments = [datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() for at in (inside, outside)]
    assert [window.contains(moment) for moment in moments] == [True, False]


@pytest.mark.parametrize(
    ("window", "code", "fields"),
    [
        ({"start": "friday", "end": "mon 08:00"}, "rollout.invalid_freeze_time", {"time": "friday"}),
        ({"start": "fri 16:00", "end": "fri 16:00"}, "rollout.freeze_window_empty", {"start": "fri 16:00"}),
        (
            {"start": "fri 16:00", "end": "mon 08:00", "zone": "Mars/Olympus"},
            "rollout.unknown_time_zone",
            {"zone": "Mars/Olympus"},
        ),
    ],
)
def test_freeze_windows_that_cannot_be_read_are_refused(
    window: dict[str, str], code: str, fields: dict[str, str]
) -> None:
    with raises(RolloutError, code, **fields):
        FreezeWindow(**window)


def test_policies_that_contradict_themselves_are_refused() -> None:
    with raises(RolloutError, "rollout.gate_without_step", gates=(0.5,), steps=(0.1, 1.0)):
        RolloutPolicy(steps=(0.1, 1.0), gates=(0.5,))
    with raises(RolloutError, "rollout.latency_quantile_missing"):
        RolloutPolicy(latency_quantile=None, latency_to_advance=True)


def test_a_policy_survives_the_journal() -> None:
    hook = Webhook(url="https://ops.example/hook", moment="before", secret_env="SECRET")
    policy = RolloutPolicy(freezes=(FreezeWindow(start="fri 16:00", end="mon 08:00"),), webhooks=(hook,), gates=(0.5,))
    assert RolloutPolicy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(("end", "fell"), [("promote", "2"), ("abort", "1")])
def test_a_rollback_is_an_entry_and_what_it_brings_back_answers_after_a_replay(end: str, fell: str) -> None:
    state, decision = apply_command(started(), end, "by hand", 101.0)
    with raises(RolloutError, "rollout.in_progress", model="trips", rollout="r1"):
        roll_back(started(), "0", "worse", 102.0)
    back, last = roll_back(state, "0", "worse", 102.0)
    assert (back.status, back.answering_version, back.share, back.active) == ("rolled back", "0", 0.0, False)
    assert (last.action, last.champion, last.challengers) == ("rollback", "0", (fell,))
    again = replay("trips", [journal_entry(started(), "start", 100.0, {}), decision, last], POLICY)
    assert (again.status, again.answering_version, again.reason) == (back.status, "0", "worse")
    assert roll_back(again, "1", "on second thoughts", 103.0)[1].challengers == ("0",)
