"""Several challengers: a verdict on each, and one decision on the rollout. Pure.

Each is judged by itself, on its own requests and the champion's. One that is worse is dropped alone. The others advance
together, once all of them may. At the last step before 100% one of them continues: the one with the lowest mean cost
relative to the champion's, on the rows that both scored. All of them have been shown to be within the margin by then,
so the choice needs no test; the decision states the difference to the next best with its confidence limits, and whether
it is significant. See docs/decisions/0019. On the path of health, where labels are not known, it is the one whose
scores differ least from the champion's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.quality_test import difference_bounds
from deployments.analysis.verdict import RolloutDecision, Verdict, judge
from deployments.rollout.state_machine import RolloutState

VerdictByVersion = Mapping[str, Verdict]
EvidenceByVersion = Mapping[str, RolloutEvidence]


def judge_all(state: RolloutState, evidence: EvidenceByVersion, step_age_s: float) -> dict[str, Verdict]:
    """Judge each challenger that is on trial.

    Args:
        state: State of the rollout.
        evidence: Evidence by version; a missing version has none yet.
        step_age_s: Seconds at the current step, toward its deadline.

    Returns:
        VerdictByVersion by version.
    """
    counts = len(state.initial_challengers), len(state.challengers)
    return {
        version: judge(evidence.get(version, RolloutEvidence()), state.share, step_age_s, state.policy, *counts)
        for version in state.challengers
    }


def decide(state: RolloutState, verdicts: VerdictByVersion, evidence: EvidenceByVersion) -> RolloutDecision:
    """Decide on the rollout; of several challengers to drop, the first one is dropped.

    Args:
        state: State of the rollout.
        verdicts: VerdictByVersion by version (judge_all).
        evidence: Evidence by version.
    """
    on_trial = {version: verdicts[version] for version in state.challengers}
    kinds = {verdict.kind for verdict in on_trial.values()}
    if len(state.initial_challengers) == 1:
        (verdict,) = on_trial.values()
        return RolloutDecision(versions=state.challengers, **verdict.model_dump(exclude={"compared"}))
    invalid = {version: verdict for version, verdict in on_trial.items() if verdict.kind == "invalid"}
    if invalid and not any(verdict.kind == "abort" and not verdict.compared for verdict in on_trial.values()):
        # Labels and rows of one challenger are those of the others: a comparison with the champion is void.
        check = next(verdict.check for verdict in invalid.values())
        return _combine("invalid", invalid).model_copy(update={"check": check})
    if kinds == {"abort"}:
        return _combine("abort", on_trial)
    if "abort" in kinds:
        aborts = [version for version, verdict in on_trial.items() if verdict.kind == "abort"]
        # Beside an invalid verdict, only harm that needs no comparison counts.
        worst = next((version for version in aborts if not on_trial[version].compared), aborts[0])
        return _combine("drop", {worst: on_trial[worst]})
    if "hold" in kinds:
        return _combine("hold", on_trial)
    if not state.chooses_next:
        return _combine("advance", on_trial)
    choose = _choose_nearest if state.policy.path == "health" else _choose_best
    return choose(state, on_trial, evidence)


def _combine(
    kind: Literal["advance", "hold", "drop", "abort", "invalid"], verdicts: VerdictByVersion
) -> RolloutDecision:
    """Join the reasons of several verdicts; prefix their figures with the version."""
    return RolloutDecision(
        kind=kind,
        versions=tuple(verdicts),
        reason="; ".join(f"v{version}: {verdict.reason}" for version, verdict in verdicts.items()),
        figures={
            f"v{version}_{name}": x for version, verdict in verdicts.items() for name, x in verdict.figures.items()
        },
        remark="; ".join(f"v{version}: {verdict.remark}" for version, verdict in verdicts.items() if verdict.remark),
    )


def _choose_nearest(state: RolloutState, verdicts: VerdictByVersion, evidence: EvidenceByVersion) -> RolloutDecision:
    """Advance the challenger whose scores differ least from the champion's: without labels, none is the best."""
    distance = {version: evidence[version].total.agreement.mean_distance for version in verdicts}
    nearest, all_passed = min(distance, key=lambda version: distance[version]), _combine("advance", verdicts)
    reason = f"v{nearest} continues: its scores differ least from the champion's; {all_passed.reason}"
    return all_passed.model_copy(update={"versions": (nearest,), "reason": reason})


def _choose_best(state: RolloutState, verdicts: VerdictByVersion, evidence: EvidenceByVersion) -> RolloutDecision:
    """Advance the best by estimate. The limits hold for all challengers together, and so for any two of them."""
    policy = state.policy.divide_alpha(len(state.initial_challengers))
    paired = {version: evidence[version].total.paired for version in verdicts}
    mean = {version: moments.challenger - moments.champion for version, moments in paired.items()}
    best, next_best = sorted(mean, key=lambda version: mean[version])[:2]
    (low, high), (next_low, next_high) = (difference_bounds(paired[version], policy) for version in (best, next_best))
    limits = {"lower": low - next_high, "upper": high - next_low}
    all_passed = _combine("advance", verdicts)
    shown = "significantly lower" if limits["upper"] < 0.0 else "not significantly lower; selected by point estimate"
    reason = (
        f"v{best} continues: its mean {policy.metric} cost is lowest, {mean[best]:+.4f} against the champion's, "
        f"v{next_best} {mean[next_best]:+.4f}; the difference is between {limits['lower']:+.4f} and "
        f"{limits['upper']:+.4f}, {shown}; {all_passed.reason}"
    )
    figures = {f"best_less_next_{name}": value for name, value in limits.items()}
    return all_passed.model_copy(
        update={"versions": (best,), "reason": reason, "figures": all_passed.figures | figures}
    )
