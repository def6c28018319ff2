"""Criteria of a rollout whose labels take longer than its steps: what can be known without them. Pure.

A challenger that is healthy answers, in time, and much as the champion does. That is no evidence that it is not worse,
and no reason of a verdict says so: labels decide after the promotion (deployments/rollout/probation.py). Disagreement
never aborts, because a challenger that is much better also differs; it only withholds an advance.
"""

from __future__ import annotations

from deployments.analysis import criteria
from deployments.analysis.criteria import CriterionResult
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.mean_bounds import mean_bounds
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.quality_test import MIN_EFFECTIVE_ROWS, compare_quality
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.rollout_policy import RolloutPolicy


def check_early_labels(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Do labels that came early show harm? They are not needed to advance."""
    return compare_quality(evidence, policy).model_copy(update={"missing_evidence": ""})


def check_agreement(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Is the distance of both variants' scores for the same rows below ``max_disagreement``?"""
    agreement, limit = evidence.total.agreement, policy.max_disagreement
    missing = (
        f"scores differ by {agreement.mean_distance:.3f} on average on {agreement.rows} rows, not shown to be within "
        f"max_disagreement={limit:g}"
    )
    # Shown: the mean distance less ``limit`` times its unit is at most 0.
    upper = _upper_limit(agreement.distance, limit - 1.0, policy)
    return CriterionResult(
        missing_evidence="" if upper <= 0.0 else missing,
        figures={"disagreement": agreement.mean_distance, "disagreement_excess_upper": upper},
    )


def check_estimated_cost(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """If labels follow the champion's probabilities, does the challenger cost at most ``max_estimated_excess`` more?"""
    agreement = evidence.total.agreement
    if policy.max_estimated_excess is None or not agreement.by_champion.n:
        return CriterionResult()
    upper = _upper_limit(agreement.by_champion, policy.max_estimated_excess, policy)
    low, high = estimated_difference(agreement, policy)
    cost = agreement.by_champion
    missing = (
        f"if labels follow the champion's probabilities, the challenger's {policy.metric} cost is "
        f"{cost.challenger:.4f} against {cost.champion:.4f} on {cost.n} rows, not shown to be within "
        f"max_estimated_excess={policy.max_estimated_excess:g}"
    )
    figures = {"estimated_difference_low": low, "estimated_difference_high": high, "estimated_excess_upper": upper}
    return CriterionResult(missing_evidence="" if upper <= 0.0 else missing, figures=figures)


def estimated_difference(agreement: ScoreAgreement, policy: RolloutPolicy) -> tuple[float, float]:
    """Limits of the challenger's mean cost less the champion's, if labels follow a mixture of their probabilities.

    Each limit has error probability alpha / 2. Infinite for a regression, whose scores say nothing about its labels.
    """
    half = policy.alpha / 2.0
    low, _ = mean_bounds(agreement.by_challenger.excess(0.0), half, policy.sharpest_n)
    _, high = mean_bounds(agreement.by_champion.excess(0.0), half, policy.sharpest_n)
    return low, high


def missing_rows(step: ComparisonEvidence, policy: RolloutPolicy) -> str:
    """Which minimum number of scored rows this step has not reached; empty when none."""
    rows = step.agreement.rows
    return f"{rows} of {policy.min_labeled} rows that both scored" if rows < policy.min_labeled else ""


def describe_health(total: ComparisonEvidence, policy: RolloutPolicy) -> str:
    """Say what is shown, and what is not, for people to read."""
    agreement = total.agreement
    low, high = estimated_difference(agreement, policy)
    estimate = (
        f"the {policy.metric} cost is estimated to change by {low:+.4f} to {high:+.4f}, if labels follow either's "
        f"probabilities"
        if agreement.by_champion.n
        else "a regression has no estimate without labels"
    )
    return (
        f"healthy: {total.scored.errors} errors in {total.scored.answered} requests; scores differ by "
        f"{agreement.mean_distance:.3f} on average on {agreement.rows} rows; {estimate}; {total.paired.n} labeled rows"
    )


def _upper_limit(moments: PairedMoments, margin: float, policy: RolloutPolicy) -> float:
    """Upper confidence limit of the mean of ``challenger - (1 + margin) * champion``."""
    _, upper = mean_bounds(moments.excess(margin), policy.alpha, policy.sharpest_n)
    return upper if moments.effective_n >= MIN_EFFECTIVE_ROWS else float("inf")


COMPARISONS = (criteria.compare_error_rates, check_early_labels, check_agreement, check_estimated_cost)
"""In place of those of the path of labels (verdict.py)."""
