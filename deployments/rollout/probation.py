"""The verdict after a promotion on health: labels decide, weeks later. Pure.

promoted, on probation ──no harm within the margin──▶ confirmed
                       ──harm──▶ rolled back, or an alarm, by policy
                       ──neither, in time──▶ expired
                       ──another version is put on trial──▶ superseded

The two versions go on being compared by the quality criterion alone, unless the checks doubt the rows. It continues the
sequence of labeled rows that began with the canary: rows that both scored then get their labels first. So its parts of
alpha hold over all looks, in the canary and after it: a promoted version that is no worse than the former champion is
rolled back for its quality with probability at most ``test_alpha("quality") + test_alpha("early_quality")``, and one
beyond the margin is confirmed with probability at most ``alpha``.

Rows from after the promotion have one variant, so what the checks compare between variants finds nothing in them. The
checks of these rows and those of the canary spend half of ``validity_alpha`` each (RolloutPolicy.divide_alpha).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.values import Decision, Frozen
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.quality_test import compare_quality, format_costs
from deployments.analysis.validity.validity_checks import UNPROVEN_ROWS, ValidityResult, check_validity
from deployments.analysis.verdict import check_evidence
from deployments.rollout import state_machine
from deployments.rollout.state_machine import RolloutState, format_due
from deployments.rollout_policy import DAY_S

LateAction = Literal["hold", "confirm", "rollback", "alarm", "expire", "supersede"]


class LateVerdict(Frozen):
    """What labels say about a version that was promoted on health."""

    action: LateAction
    reason: str
    """A sentence with the figures."""
    figures: dict[str, float] = Field(default_factory=dict)
    check: str = ""
    """Check that the evidence fails, so that labels neither confirm nor roll back; empty for none."""


def judge_probation(state: RolloutState, evidence: RolloutEvidence, now: float) -> LateVerdict:
    """Judge a promoted version that is on probation.

    Args:
        state: State of the rollout.
        evidence: All evidence on the promoted version.
        now: Seconds since the epoch.
    """
    policy = state.policy.divide_alpha(len(state.initial_challengers))
    quality, paired = compare_quality(evidence, policy), evidence.total.paired
    canary = check_evidence(evidence, policy, len(state.initial_challengers))
    late = check_validity(evidence.late_validity, policy, split=0.0, keys="", labeled=evidence.late_validity.labeled)
    failed = canary.failed or late.failed
    doubt = failed.reason if failed else canary.suspicious or late.suspicious or _unproven(canary, late, evidence)
    version, former = state.answering_version, state.champion
    figures = quality.figures | canary.figures | {f"late_{name}": value for name, value in late.figures.items()}
    figures |= {"labelled": float(paired.n), "given_up": float(evidence.expired_rows)}
    if quality.regression and not doubt:
        reason = f"labels show harm of v{version} after its promotion: {quality.regression}"
        return LateVerdict(action=policy.on_late_harm, reason=reason, figures=figures)
    costs = format_costs(paired, policy)
    if paired.n >= policy.min_labeled and not quality.missing_evidence and not doubt:
        reason = f"confirmed by labels: v{version} is not worse than v{former}: {costs}, within {policy.margin:.1%}"
        return LateVerdict(action="confirm", reason=reason, figures=figures)
    if now - state.since >= policy.probation_limit_s:
        days = policy.probation_limit_s / DAY_S
        reason = f"labels did not decide in {days:.3g} days: {doubt or costs}; v{version} stays"
        return LateVerdict(action="expire", reason=reason, figures=figures)
    reason = f"on probation: {format_due(state)}; {doubt or (costs if paired.n else 'no labeled rows yet')}"
    return LateVerdict(action="hold", reason=reason, figures=figures, check=failed.check if failed else "")


def _unproven(canary: ValidityResult, late: ValidityResult, evidence: RolloutEvidence) -> str:
    """Why labels are not yet known to belong to the scores, by the rows that have most labels; empty when they are."""
    if evidence.total.paired.n >= UNPROVEN_ROWS:
        return ""
    return late.unproven if 2 * evidence.late_validity.labeled > evidence.total.paired.n else canary.unproven


def supersede(state: RolloutState, rollout: str) -> LateVerdict:
    """Return the verdict on a promoted version against which another one is put on trial.

    Args:
        state: State of its rollout.
        rollout: Id of the next rollout.
    """
    reason = f"superseded by the rollout {rollout} before labels decided on v{state.answering_version}"
    return LateVerdict(action="supersede", reason=reason)


def apply_late_verdict(state: RolloutState, verdict: LateVerdict, now: float) -> tuple[RolloutState, Decision]:
    """Apply a verdict after a promotion.

    Args:
        state: State before it, on probation.
        verdict: The verdict; "hold" changes nothing.
        now: Seconds since the epoch.

    Returns:
        The state after it and its journal entry.
    """
    if verdict.action == "rollback":
        return state_machine.roll_back(state, state.champion, verdict.reason, now, verdict.figures)
    if verdict.action == "hold":
        return state, state_machine.journal_entry(state, "hold", now, verdict.figures)
    update = {"on_probation": False, "late_harm": verdict.action == "alarm", "reason": verdict.reason}
    after = state.model_copy(update=update)
    return after, state_machine.journal_entry(after, verdict.action, now, verdict.figures)
