"""From evidence, policy and time to a verdict on a challenger. Pure.

Criteria:

errors   Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer? (Copies
         of the champion's requests count.) Does it
         fail more often than the champion, beyond ``error_margin``, and is not shown to be below the limit?
         (criteria.py, sequential_tests.py)
quality  Is its mean loss, or its share of mistakes, above the champion's on the same rows; is it below (1 + margin)
         times the champion's? (quality_test.py)
latency  Is a quantile of its time in the predictor beyond the champion's, with margin and floor? (latency_histogram.py)
split    Was the traffic split as configured? (sample_ratio.py)
memory   Did the memory of a replica grow beyond its limit?

*Worse* (a regression by any criterion): abort. *Not worse* (quality within the margin and errors below their limit,
both shown; the step has its minimum counts; the split is sound): advance. A challenger that is a little worse, within
the margin, gets whichever is shown first. Otherwise *undecided*: hold until the step's deadline, then act as the policy
declares. Absence of evidence of harm never advances a rollout; evidence of absence does. Latency alone advances
nothing, and need not be shown unless the policy says so: see docs/decisions/0013.

Error probabilities of the verdict, over all looks together. A challenger that is no worse than the champion, and within
the limits, is aborted or held for a broken split with probability <= alpha: each test spends a part of it, quality the
most (RolloutPolicy.test_alpha). One beyond margin or limit advances with probability <= alpha: to advance, all tests
must reject at alpha. The bounds are exact for errors, accuracy, latency, the split, and the clipped losses of the first
rows, where each key comes once; those on loss are asymptotic in ``min_labeled``, and all are asymptotic in the number
of keys where keys repeat. Each of several challengers is
judged separately, with an equal part of alpha: the bounds hold for all of them together (multi_challenger.py).
Evidence is summed over the steps; each step must add its own minimum.
"""

from __future__ import annotations

from typing import Literal

from cluster.values import Frozen
from deployments.analysis import criteria
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, pairwise_share
from deployments.analysis.quality_test import compare_quality, format_costs
from deployments.analysis.sample_ratio import possible_shares
from deployments.rollout_policy import RolloutPolicy

_CRITERIA = (
    criteria.check_memory_growth, criteria.check_error_rate, criteria.compare_error_rates, compare_quality,
    criteria.compare_latency,
)  # fmt: skip


class Verdict(Frozen):
    """Verdict on one challenger."""

    kind: Literal["advance", "hold", "abort"]
    reason: str
    """A sentence with the figures."""
    figures: dict[str, float]
    """The figures by name; the journal and dashboards keep these names."""
    remark: str = ""
    """Why it holds, in a few words without figures, where a person should know; else empty."""


class RolloutDecision(Frozen):
    """Decision over all challengers of a rollout (multi_challenger.py); fields as in Verdict."""

    kind: Literal["advance", "hold", "drop", "abort"]
    versions: tuple[str, ...]
    """Versions that advance, or the one that is dropped."""
    reason: str
    figures: dict[str, float]
    remark: str = ""


def judge(
    evidence: RolloutEvidence,
    share: float,
    step_age_s: float,
    policy: RolloutPolicy,
    n_initial: int = 1,
    n_active: int = 1,
) -> Verdict:
    """Judge one challenger.

    Args:
        evidence: All evidence on this challenger.
        share: Share of requests that each active challenger gets now.
        step_age_s: Seconds since the current step began.
        policy: The rollout's policy.
        n_initial: Challengers that the rollout began with; alpha is divided among them.
        n_active: Challengers that are still on trial.
    """
    policy, at_share = policy.divide_alpha(n_initial), pairwise_share(share, 1.0 - n_active * share)
    total, step = evidence.total, evidence.at_share(at_share)
    evidence = evidence.model_copy(update={"overall": total})
    split = criteria.check_split(evidence, policy, possible_shares(policy.steps, n_initial))
    results = [split, *(check(evidence, policy) for check in _CRITERIA)]
    figures = _count_figures(total, step) | {"given_up": float(evidence.expired_rows)}
    for result in results:
        figures |= result.figures
    for result in results:
        if result.regression:
            return Verdict(kind="abort", reason=result.regression, figures=figures)
    too_few, broken = _missing_counts(step, at_share, policy), split.missing_evidence
    missing = broken or too_few or next((r.missing_evidence for r in results if r.missing_evidence), "")
    if not missing:
        return Verdict(kind="advance", reason=_advance_reason(total, policy), figures=figures)
    remark = "broken split" if broken else ""
    if step_age_s < policy.deadline_s:
        return Verdict(kind="hold", reason=f"undecided at {share:.0%}: {missing}", figures=figures, remark=remark)
    default = policy.no_data if too_few else policy.on_undecided
    if default == "advance" and broken:
        default = "hold"
    reason = f"still undecided at {share:.0%} after {policy.deadline_s:.0f} s ({missing}): {default} by policy"
    return Verdict(kind=default, reason=reason, figures=figures, remark=remark)


def _missing_counts(step: ComparisonEvidence, share: float, policy: RolloutPolicy) -> str:
    """Which minimum count this step has not reached; empty when none. At share 1 the champion gets no requests."""
    if step.scored.answered < policy.min_requests:
        return f"{step.scored.answered} of {policy.min_requests} requests"
    if share < 1.0 and step.champion.requests < policy.min_requests:
        return f"{step.champion.requests} of {policy.min_requests} requests to the champion"
    if step.paired.n < policy.min_labeled:
        return f"{step.paired.n} of {policy.min_labeled} labeled rows"
    return ""


def _advance_reason(total: ComparisonEvidence, policy: RolloutPolicy) -> str:
    return (
        f"not worse: {format_costs(total.paired, policy)}, within the margin of {policy.margin:.1%}; "
        f"{total.scored.errors} errors in {total.scored.answered} requests"
    )


def _count_figures(total: ComparisonEvidence, step: ComparisonEvidence) -> dict[str, float]:
    return {
        "labelled": float(total.paired.n),
        "step_labelled": float(step.paired.n),
        "step_requests": float(step.scored.answered),
        "champion_loss": total.paired.champion,
        "challenger_loss": total.paired.challenger,
        "champion_requests": float(total.champion.requests),
        "challenger_requests": float(total.challenger.requests),
        "champion_errors": float(total.champion.errors),
        "challenger_errors": float(total.challenger.errors),
        "copies": float(total.copies.requests),
        "copy_errors": float(total.copies.errors),
        "copies_unanswered": float(total.copies.unanswered),
    }
