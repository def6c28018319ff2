"""After a promotion on health, labels confirm the version, roll it back, raise an alarm, or do not decide in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.values import Decision
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.validity.validity_checks import UNPROVEN_ROWS
from deployments.analysis.validity.validity_evidence import Suspects, ValidityEvidence
from deployments.analysis.verdict import RolloutDecision
from deployments.label_delay import follow_label_delay
from deployments.rollout.probation import LateVerdict, apply_late_verdict, judge_probation, supersede
from deployments.rollout.state_machine import (
    RolloutState,
    apply_command,
    apply_decision,
    begin,
    journal_entry,
    replay,
    roll_back,
)
from deployments.rollout_policy import DAY_S, RolloutPolicy
from deployments.telemetry.prediction_log import prediction_rows
from tests.factories.deployments.predictions import label_table, prediction_batch
from tests.factories.deployments.tasks import BINARY

POLICY = follow_label_delay(RolloutPolicy(steps=(0.5, 1.0), bake_s=0.0), 90 * DAY_S)
STARTED = 1_793_491_200.0
"""2026-11-01."""
ADVANCE = RolloutDecision(kind="advance", versions=("2",), reason="healthy", figures={})


def promoted(policy: RolloutPolicy = POLICY) -> tuple[RolloutState, list[Decision]]:
    """A rollout that is promoted 100 s after its start, and its journal."""
    state = begin("r1", "trips", "1", ("2",), policy, STARTED)
    journal = [journal_entry(state, "start", STARTED, {})]
    for second in (50.0, 100.0):
        state, entry = apply_decision(state, ADVANCE, STARTED + second)
        journal.append(entry)
    return state, journal


def labeled(harm: float, rows: int, seed: int = 0) -> RolloutEvidence:
    chance = np.random.default_rng(seed)
    champion = chance.gamma(2.0, 0.25, rows)
    challenger = champion * (1.0 + harm) + chance.normal(0.0, 0.05, rows)
    return RolloutEvidence(by_share={1.0: ComparisonEvidence(paired=PairedMoments.from_losses(champion, challenger))})


def judged(evidence: RolloutEvidence, days: float, policy: RolloutPolicy = POLICY) -> LateVerdict:
    return judge_probation(promoted(policy)[0], evidence, STARTED + days * DAY_S)


def test_promotion_on_health_begins_a_probation_and_names_the_date_of_the_first_verdict() -> None:
    state, journal = promoted()
    assert (state.status, state.active, state.on_probation, state.since) == ("promoted", False, True, STARTED + 100.0)
    assert state.reason == "promoted on health; first labeled verdict due 2027-01-30; healthy"
    assert replay("trips", journal, POLICY) == state


@pytest.mark.parametrize("path", ["labels", "health"])
def test_promotion_by_hand_begins_a_probation_only_where_labels_are_slow(path: str) -> None:
    state = begin("r1", "trips", "1", ("2",), POLICY.model_copy(update={"path": path}), STARTED)
    after, _ = apply_command(state, "promote", "by hand", STARTED + 1.0)
    assert after.on_probation == (path == "health")
    assert apply_command(state, "abort", "by hand", STARTED + 1.0)[0].on_probation is False


@pytest.mark.parametrize(
    ("evidence", "days", "policy", "action"),
    [
        (RolloutEvidence(), 30.0, POLICY, "hold"),
        (labeled(0.0, 20), 91.0, POLICY, "hold"),
        (labeled(0.0, 2_000), 95.0, POLICY, "confirm"),
        (labeled(0.2, 2_000), 95.0, POLICY, "rollback"),
        (labeled(0.2, 2_000), 95.0, POLICY.model_copy(update={"on_late_harm": "alarm"}), "alarm"),
        (labeled(0.0, 20), 181.0, POLICY, "expire"),
    ],
    ids=["no_labels", "few_labels", "not_worse", "worse", "worse_with_alarm", "too_late"],
)
def test_labels_decide_on_a_promoted_version(
    evidence: RolloutEvidence, days: float, policy: RolloutPolicy, action: str
) -> None:
    assert judged(evidence, days, policy).action == action


def test_doubt_about_the_canary_decides_nothing() -> None:
    suspects = Suspects(rows=9, ids=("order-1",))
    doubted = {"validity": ValidityEvidence(misassigned=suspects)}
    for harm in (0.0, 0.2):
        evidence = labeled(harm, 2_000).model_copy(update=doubted)
        assert [judged(evidence, days).action for days in (95.0, 181.0)] == ["hold", "expire"]
        assert judged(evidence, 95.0).check == "variant"
    assert judged(labeled(0.0, 20), 95.0).check == ""


def test_canary_without_proof_that_labels_follow_scores_delays_the_verdict_of_many_labels_no_more() -> None:
    unproven = {"validity": ValidityEvidence(labeled=600)}
    few, many = (labeled(0.2, rows).model_copy(update=unproven) for rows in (UNPROVEN_ROWS - 1, UNPROVEN_ROWS))
    assert judged(labeled(0.2, UNPROVEN_ROWS - 1), 95.0).action == "rollback"
    assert [judged(evidence, 95.0).action for evidence in (few, many)] == ["hold", "rollback"]


@pytest.mark.parametrize(
    ("verdict", "status", "answers"),
    [
        (LateVerdict(action="confirm", reason="fine", figures={"labelled": 60.0}), "promoted", "2"),
        (LateVerdict(action="alarm", reason="harm"), "promoted", "2"),
        (LateVerdict(action="expire", reason="no labels"), "promoted", "2"),
        (supersede(promoted()[0], "r2"), "promoted", "2"),
        (LateVerdict(action="rollback", reason="harm"), "rolled back", "1"),
    ],
    ids=lambda value: value.action if isinstance(value, LateVerdict) else "",
)
def test_verdict_ends_the_probation_and_is_replayed(verdict: LateVerdict, status: str, answers: str) -> None:
    state, journal = promoted()
    after, entry = apply_late_verdict(state, verdict, STARTED + 95 * DAY_S)
    assert (after.on_probation, after.status, after.answering_version) == (False, status, answers)
    assert after.late_harm == (verdict.action == "alarm")
    assert not roll_back(after, "1", "by hand", STARTED + 96 * DAY_S)[0].late_harm
    assert (entry.action, entry.reason, entry.evidence) == (verdict.action, verdict.reason, verdict.figures)
    again = replay("trips", [*journal, entry], POLICY)
    left_out: Any = {"since"}
    assert again.model_dump(exclude=left_out) == after.model_dump(exclude=left_out)


def test_hold_changes_nothing() -> None:
    state, _ = promoted()
    assert apply_late_verdict(state, judged(RolloutEvidence(), 30.0), STARTED + 30 * DAY_S)[0] == state


def test_rollback_by_hand_ends_the_probation() -> None:
    assert roll_back(promoted()[0], "1", "by hand", STARTED + 200.0)[0].on_probation is False


def test_several_challengers_share_alpha_in_the_probation() -> None:
    three = promoted()[0].model_copy(update={"initial_challengers": ("2", "3", "4")})
    rows = next(n for n in range(60, 3_000, 5) if judged(labeled(0.06, n), 95.0).action == "rollback")
    assert judge_probation(three, labeled(0.06, rows), STARTED + 95 * DAY_S).action == "hold"


@pytest.mark.long
def test_sound_version_is_rolled_back_with_at_most_the_parts_of_quality() -> None:
    state, rolled_back, runs = promoted()[0], 0, 300
    for seed in range(runs):
        total = ComparisonEvidence()
        chance = np.random.default_rng(seed)
        for _ in range(30):
            both = chance.gamma(2.0, 0.25, 40)
            losses = [both + chance.normal(0.0, 0.3, 40) for _ in range(2)]
            total += ComparisonEvidence(paired=PairedMoments.from_losses(*losses))
            action = judge_probation(state, RolloutEvidence(by_share={1.0: total}), STARTED + 95 * DAY_S).action
            if action != "hold":
                rolled_back += action == "rollback"
                break
    spent = POLICY.test_alpha("quality") + POLICY.test_alpha("early_quality")
    assert rolled_back <= spent * runs + 3.0 * (spent * runs) ** 0.5


def late_rows(rows: int, wrong: bool, seed: int = 0) -> RolloutEvidence:
    """Rows that v2 answered after its promotion, and v1 scored, too: equally good; the labels may be inverted."""
    chance = np.random.default_rng(seed)
    truth = chance.normal(0.0, 1.5, rows)
    former, promoted = (1.0 / (1.0 + np.exp(-truth - chance.normal(0.0, 0.3, rows))) for _ in range(2))
    labels = (chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))) != wrong
    after = {"rollout": "r1", "champion_version": "2", "version": "2", "challenger_version": "1"}
    batches = [
        prediction_batch(f"q{i}", promoted[i], former[i], assigned="champion", share=0.0, **after) for i in range(rows)
    ]
    collector = EvidenceCollector("r1", ("2",))
    collector.add_predictions(prediction_rows(batches, "b"))
    collector.add_labels(label_table({f"q{i}": float(label) for i, label in enumerate(labels)}))
    return collector.evidence(BINARY)["2"]


def test_rows_of_after_the_promotion_are_checked_and_blame_no_version() -> None:
    for seed in range(5):
        verdict = judged(late_rows(800, wrong=True, seed=seed), 95.0)
        assert (verdict.action, verdict.check) == ("hold", "loss")
        assert judged(late_rows(800, wrong=False, seed=seed), 95.0).check == ""


def test_labels_of_after_the_promotion_have_to_follow_the_scores_before_they_decide() -> None:
    few = late_rows(30, wrong=False).late_validity
    worse = labeled(0.2, 59).model_copy(update={"late_validity": few})
    enough = worse.model_copy(update={"late_validity": late_rows(300, wrong=False).late_validity})
    assert judged(labeled(0.2, 900).model_copy(update={"late_validity": few}), 95.0).action == "rollback"
    assert [judged(evidence, 95.0).action for evidence in (worse, enough)] == ["hold", "rollback"]
