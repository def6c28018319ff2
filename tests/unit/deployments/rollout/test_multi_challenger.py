"""Several challengers in one rollout: a verdict on each, drops one by one, and the choice of the best."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RolloutError
from cluster.values import Decision
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats, pairwise_share
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.quality_test import difference_bounds
from deployments.analysis.sample_ratio import log_e_split, possible_shares
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.analysis.sequential_tests import log_e_above
from deployments.analysis.verdict import Verdict, judge
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.state_machine import (
    Command,
    RolloutState,
    apply_command,
    apply_decision,
    begin,
    journal_entry,
    replay,
)
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.prediction_log import prediction_rows
from deployments.traffic_split import find_slice
from tests.factories.deployments.predictions import label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY
from tests.factories.errors import raises

POLICY = RolloutPolicy(steps=(0.1, 0.5, 1.0))
GATED = POLICY.model_copy(update={"gates": (0.5,), "bake_s": 5.0})
INITIAL_CHALLENGERS = ("2", "3", "4")
kinds = st.sampled_from(["advance", "hold", "abort"])
orders = st.tuples(
    st.sampled_from(["pause", "resume", "abort", "promote"]), st.sampled_from(["", *INITIAL_CHALLENGERS])
)
histories = st.lists(st.one_of(st.tuples(kinds, kinds, kinds), orders), max_size=12)


def begin_rollout(policy: RolloutPolicy = POLICY, versions: tuple[str, ...] = INITIAL_CHALLENGERS) -> RolloutState:
    return begin("r1", "trips", "1", versions, policy, 100.0)


def verdicts_of(*kinds: str) -> dict[str, Verdict]:
    """A verdict on each challenger."""
    pairs = zip(INITIAL_CHALLENGERS, kinds, strict=True)
    return {
        v: Verdict.model_validate({"kind": kind, "reason": f"{kind} it", "figures": {"x": 1.0}}) for v, kind in pairs
    }


def evidence(**excess: float) -> dict[str, RolloutEvidence]:
    """By version: how much more it loses on each row than the champion."""
    chance = np.random.default_rng(0)
    rollout_evidence = {}
    for name, more in excess.items():
        losses = chance.exponential(0.5, 2_000)
        paired = PairedMoments.from_losses(losses, losses + more + chance.normal(0.0, 0.05, 2_000))
        rollout_evidence[name.removeprefix("v")] = RolloutEvidence(by_share={0.5: ComparisonEvidence(paired=paired)})
    return rollout_evidence


CLOSE = evidence(v2=0.0, v3=-0.001, v4=0.01)


def step(state: RolloutState, *kinds: str, now: float = 101.0) -> tuple[RolloutState, Decision]:
    return apply_decision(state, decide(state, verdicts_of(*kinds), CLOSE), now)


def test_decide_with_one_undecided_challenger_holds_all() -> None:
    state = begin_rollout()
    assert (state.share, state.parts) == (0.1 / 3, 3)
    after, decision = step(state, "advance", "hold", "advance")
    assert (after.share, decision.action) == (state.share, "hold")
    assert decision.reason == "v2: advance it; v3: hold it; v4: advance it"
    state, decision = step(state, "advance", "advance", "advance")
    assert (decision.action, decision.share, decision.challengers) == ("advance", 0.5 / 3, INITIAL_CHALLENGERS)


def test_decide_with_one_worse_challenger_drops_it_alone() -> None:
    state, decision = step(begin_rollout(), "advance", "abort", "hold", now=150.0)
    assert (decision.action, decision.challengers, decision.reason) == ("drop", ("3",), "v3: abort it")
    assert (state.challengers, state.share, state.since, state.active) == (("2", "4"), 0.1 / 3, 150.0, True)
    assert state.starts == (begin_rollout().starts[0], begin_rollout().starts[2])
    assert decision.evidence == {"v3_x": 1.0}


def test_decide_with_all_challengers_worse_aborts() -> None:
    state, decision = step(begin_rollout(), "abort", "abort", "abort")
    assert (state.status, decision.action) == ("aborted", "abort")
    one_left = apply_command(apply_command(begin_rollout(), "abort", "", 101.0, "2")[0], "abort", "", 101.0, "3")[0]
    assert (one_left.challengers, one_left.status) == (("4",), "running")
    state, decision = step(one_left, "hold", "hold", "abort")
    assert (state.status, decision.action, decision.challengers) == ("aborted", "abort", ("4",))


def test_decide_at_the_last_step_below_one_chooses_the_best() -> None:
    state, steps = begin_rollout(), []
    while state.active:
        state, decision = step(state, "advance", "advance", "advance")
        steps.append((decision.action, decision.share, decision.challengers))
    assert steps == [
        ("advance", 0.5 / 3, INITIAL_CHALLENGERS),
        ("advance", 0.5, ("3",)),
        ("advance", 1.0, ("3",)),
        ("promote", 0.0, ("3",)),
    ]
    assert (state.status, state.challengers) == ("promoted", ("3",))


def test_single_remaining_challenger_keeps_its_share_until_it_advances() -> None:
    state = apply_command(apply_command(begin_rollout(), "abort", "", 101.0, "2")[0], "abort", "", 101.0, "3")[0]
    assert (state.share, state.parts) == (0.1 / 3, 3)
    steps = []
    while state.active:
        state, decision = step(state, "hold", "hold", "advance")
        steps.append((decision.action, decision.share))
    assert steps == [("advance", 0.1), ("advance", 0.5), ("advance", 1.0), ("promote", 0.0)]


def test_choice_reports_the_difference_and_its_significance() -> None:
    state = begin_rollout().model_copy(update={"step": 1})
    near = decide(state, verdicts_of("advance", "advance", "advance"), CLOSE)
    assert near.versions == ("3",)
    assert near.figures["best_less_next_lower"] < 0.0 < near.figures["best_less_next_upper"]
    assert "selected by point estimate" in near.reason
    far = decide(state, verdicts_of("advance", "advance", "advance"), evidence(v2=-0.2, v3=0.0, v4=0.1))
    assert far.versions == ("2",)
    assert far.figures["best_less_next_upper"] < 0.0
    assert "selected by point estimate" not in far.reason


def test_choice_without_labels_is_that_of_the_nearest_scores() -> None:
    state = begin_rollout(POLICY.model_copy(update={"path": "health"})).model_copy(update={"step": 1})
    champion = np.linspace(0.2, 0.6, 50)
    scored = {
        version: ScoreAgreement.from_scores(BINARY, champion, champion + shift, "loss")
        for version, shift in zip(INITIAL_CHALLENGERS, (0.2, 0.3, 0.1), strict=True)
    }
    unlabeled = {v: RolloutEvidence(by_share={0.1: ComparisonEvidence(agreement=a)}) for v, a in scored.items()}
    decision = decide(state, verdicts_of("advance", "advance", "advance"), unlabeled)
    assert (decision.kind, decision.versions) == ("advance", ("4",))
    assert "loss" not in decision.reason


def test_gate_with_several_challengers_opens_for_the_choice_and_again_for_the_chosen() -> None:
    state = begin_rollout(GATED).model_copy(update={"step": 1})
    all_advance = ("advance", "advance", "advance")
    assert step(state, *all_advance, now=104.0)[1].action == "hold"
    state, decision = step(state, *all_advance, now=106.0)
    assert (state.status, decision.action) == ("waiting", "pause")
    assert step(state, "advance", "advance", "abort", now=107.0)[1].action == "drop"
    state, _ = apply_command(state, "resume", "go", 110.0)
    state, decision = step(state, *all_advance, now=111.0)
    assert (decision.action, decision.challengers, state.share) == ("advance", ("3",), 0.5)
    # A single challenger bakes and waits again.
    assert step(state, *all_advance, now=112.0)[0].remark == "baking at 50%"
    assert step(state, *all_advance, now=117.0)[0].status == "waiting"


def test_paused_rollout_with_a_worse_challenger_drops_it_and_journals_why() -> None:
    state, _ = apply_command(begin_rollout(), "pause", "night", 101.0)
    state, decision = step(state, "abort", "advance", "advance")
    assert (state.status, state.reason, state.challengers) == ("paused", "night", ("3", "4"))
    assert (decision.action, decision.reason) == ("drop", "v2: abort it")


def test_dry_run_with_a_worse_challenger_drops_none() -> None:
    state = begin_rollout(POLICY.model_copy(update={"dry_run": True}))
    after, decision = step(state, "advance", "abort", "advance")
    assert (after.challengers, decision.action, after.remark) == (INITIAL_CHALLENGERS, "hold", "dry run: drop v3")


@pytest.mark.parametrize(
    ("command", "version", "code"),
    [
        ("promote", "", "rollout.version_ambiguous"),
        ("promote", "9", "rollout.version_not_applicable"),
        ("pause", "2", "rollout.version_not_applicable"),
    ],
)
def test_apply_command_without_an_applicable_version_is_refused(command: Command, version: str, code: str) -> None:
    with raises(RolloutError, code, challengers=INITIAL_CHALLENGERS):
        apply_command(begin_rollout(), command, "", 101.0, version)


def test_promote_with_a_version_promotes_it() -> None:
    state, decision = apply_command(begin_rollout(), "promote", "I say so", 101.0, "4")
    assert (state.status, state.challengers, decision.challengers) == ("promoted", ("4",), ("4",))


@pytest.mark.parametrize(
    ("challengers", "policy", "code"),
    [
        (("2", "1"), POLICY, "rollout.challenger_is_champion"),
        (("2", "2"), POLICY, "rollout.challengers_not_unique"),
        ((), POLICY, "rollout.challengers_not_unique"),
        (("2", "3"), RolloutPolicy(steps=(1.0,)), "rollout.no_step_below_one"),
    ],
)
def test_begin_with_versions_that_cannot_compete_is_refused(
    challengers: tuple[str, ...], policy: RolloutPolicy, code: str
) -> None:
    with raises(RolloutError, code, model="trips"):
        begin_rollout(policy, challengers)


@pytest.mark.parametrize("policy", [POLICY, GATED])
@given(histories)
def test_replay_with_several_challengers_restores_the_state_and_no_slice_shrinks(
    policy: RolloutPolicy, history: list[tuple[str, ...]]
) -> None:
    state = begin_rollout(policy)
    journal = [journal_entry(state, "start", state.since, {})]
    keys = [f"user-{i}" for i in range(50)]
    for at, event in enumerate(history, start=101):
        before = state
        try:
            if len(event) == 3:
                state, decision = step(state, *event, now=3.0 * at)
            else:
                state, decision = apply_command(state, event[0], "by hand", 3.0 * at, event[1])
        except RolloutError:
            continue
        if decision.action != "hold" or state.remark:
            journal.append(decision)
        if state.active:
            for key in keys:
                had, has = assigned_version(before, key), assigned_version(state, key)
                assert has == had or had is None or had not in state.challengers
    again = replay("trips", journal, policy)
    left_out = {"reason", "remark"}
    assert again.model_dump(exclude=left_out) == state.model_dump(exclude=left_out)


def assigned_version(state: RolloutState, key: str) -> str | None:
    index = find_slice(state.id, key, state.share, state.starts)
    return None if index is None else state.challengers[index]


@given(st.sampled_from(["2", "3", "4"]), st.integers(2, 4), st.integers(0, 2))
def test_pairwise_share_of_any_rollout_is_a_tested_share(survivor: str, count: int, drops: int) -> None:
    names = tuple(str(2 + i) for i in range(count))
    state, possible = begin_rollout(POLICY, names), possible_shares(POLICY.steps, count)
    for name in [name for name in names if name != survivor][:drops]:
        if len(state.challengers) > 1:
            state, _ = apply_command(state, "abort", "", 101.0, name)
    share = pairwise_share(state.share, 1.0 - len(state.challengers) * state.share)
    assert any(math.isclose(share, one) for one in possible)
    assert possible_shares(POLICY.steps, 1) == POLICY.steps


def test_pairwise_share_of_a_single_challenger_is_its_share() -> None:
    for share in np.random.default_rng(0).random(1_000).tolist():
        assert pairwise_share(share, 1.0 - share) == share


def test_judge_with_several_challengers_divides_alpha() -> None:
    policy = POLICY.model_copy(update={"error_margin": None, "latency_quantile": None})
    alpha = policy.test_alpha("error_rate")
    errors = next(n for n in range(1, 60) if log_e_above(n, 500, POLICY.max_error_rate) >= math.log(1.0 / alpha))
    assert log_e_above(errors, 500, POLICY.max_error_rate) < math.log(3.0 / alpha)
    arms = ComparisonEvidence(
        champion=VariantStats(requests=500), challenger=VariantStats(requests=500, errors=errors, failures=errors)
    )
    assert judge(RolloutEvidence(by_share={0.1: arms}), 0.1, 0.0, policy).kind == "abort"
    assert judge(RolloutEvidence(by_share={0.1: arms}), 0.1, 0.0, policy, n_initial=3).kind == "hold"


def test_decide_with_one_challenger_follows_its_verdict() -> None:
    state = begin_rollout(POLICY, ("2",))
    rollout_evidence = {
        "2": RolloutEvidence(
            by_share={0.1: ComparisonEvidence(paired=PairedMoments.from_losses(np.ones(60), np.full(60, 1.5)))}
        )
    }
    verdict = judge(rollout_evidence["2"], 0.1, 5.0, POLICY)
    assert judge_all(state, rollout_evidence, 5.0) == {"2": verdict}
    decision = decide(state, {"2": verdict}, rollout_evidence)
    assert (decision.kind, decision.reason, decision.figures) == (verdict.kind, verdict.reason, verdict.figures)


def test_split_test_with_dropped_challengers_accepts_a_sound_split_and_finds_a_broken_one() -> None:
    """The real split assigns keys to three challengers, then two, then one."""
    log = EvidenceCollector("r1", INITIAL_CHALLENGERS)
    state, sent = begin_rollout().model_copy(update={"step": 1}), 0
    for dropped in ("3", "2", None):
        answers = []
        for i in range(sent, sent + 3_000):
            version = assigned_version(state, f"user-{i}")
            left = 1.0 - len(state.challengers) * state.share
            values = {"rollout": "r1", "share": state.share, "champion_share": left, "challenger_version": version}
            answers.append(
                prediction_batch(f"q{i}", key=f"user-{i}", challenger=None if version is None else 0.6, **values)
            )
        log.add_predictions(prediction_rows(answers, "b"))
        sent += 3_000
        state = apply_command(state, "abort", "", 101.0, dropped)[0] if dropped else state
    rollout_evidence, possible = log.evidence(BINARY), possible_shares(POLICY.steps, 3)
    assert len(rollout_evidence["4"].by_share) == 3
    assert all(any(math.isclose(share, one) for one in possible) for share in rollout_evidence["4"].by_share)
    assert log_e_split(rollout_evidence["4"], possible) < math.log(1.0 / POLICY.divide_alpha(3).test_alpha("split"))
    broken = {
        share: one.model_copy(update={"champion": VariantStats(keys=3_000)})
        for share, one in rollout_evidence["4"].by_share.items()
    }
    assert log_e_split(RolloutEvidence(by_share=broken), possible) > math.log(
        1.0 / POLICY.divide_alpha(3).test_alpha("split")
    )


def test_evidence_of_each_challenger_counts_its_own_requests_and_the_champions() -> None:
    log = EvidenceCollector("r", ("2", "3"))
    at = {"share": 0.25, "champion_share": 0.5}
    mine = [
        prediction_batch("a", **at),
        prediction_batch("b", 0.5, 0.9, challenger_version="2", **at),
        prediction_batch("c", 0.5, 0.1, challenger_version="3", version="3", **at),
        prediction_batch("d", error="late", challenger_version="3", **at),
    ]
    log.add_predictions(prediction_rows(mine, "batch"))
    log.add_labels(label_table({"a": 1.0, "b": 1.0, "c": 1.0}))
    rollout_evidence = log.evidence(BINARY)
    (share,) = rollout_evidence["2"].by_share
    assert share == pytest.approx(1 / 3)
    assert [
        (rollout_evidence[v].total.champion.requests, rollout_evidence[v].total.challenger.requests) for v in ("2", "3")
    ] == [
        (1, 1),
        (1, 2),
    ]
    assert [rollout_evidence[v].total.challenger.errors for v in ("2", "3")] == [0, 1]
    assert [rollout_evidence[v].total.paired.challenger for v in ("2", "3")] == pytest.approx(
        [-np.log(0.9), -np.log(0.1)]
    )


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_difference_bounds_contain_the_difference_and_narrow(metric: str) -> None:
    chance, policy = np.random.default_rng(7), POLICY.model_copy(update={"metric": metric})
    misses, widths = 0, []
    for _ in range(100):
        costs = (chance.random((2, 4_000)) < np.array([[0.2], [0.25]])).astype(float)
        limits = [difference_bounds(PairedMoments.from_losses(*costs[:, :n]), policy) for n in (200, 1_000, 4_000)]
        misses += any(not low <= 0.05 <= high for low, high in limits)
        widths.append([high - low for low, high in limits])
    assert misses <= 13
    assert np.all(np.diff(np.mean(widths, axis=0)) < 0.0)
    assert np.mean(widths, axis=0)[-1] < 0.08


def test_decide_with_invalid_evidence_blames_no_challenger_by_comparison() -> None:
    state, verdicts = begin_rollout(), verdicts_of("invalid", "abort", "advance")
    verdicts["2"] = verdicts["2"].model_copy(update={"check": "labels", "remark": "invalid: labels"})
    compared = verdicts | {"3": verdicts["3"].model_copy(update={"compared": True})}
    decision = decide(state, compared, CLOSE)
    assert (decision.kind, decision.versions, decision.check) == ("invalid", ("2",), "labels")
    after, entry = apply_decision(state, decision, 101.0)
    assert (after.status, after.challengers, entry.action) == ("invalid", INITIAL_CHALLENGERS, "invalid")
    # A challenger that fails requests is dropped all the same.
    decision = decide(after, verdicts, CLOSE)
    assert (decision.kind, decision.versions) == ("drop", ("3",))
