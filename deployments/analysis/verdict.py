"""From evidence, policy and time to a verdict on a challenger. Pure.

Criteria:

errors   Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer, copies of
         the champion's requests included? Does it fail more of its own requests than the champion, beyond
         ``error_margin``, and is not shown to be below the limit? (criteria.py, sequential_tests.py)
quality  Is its mean loss, or its share of mistakes, above the champion's on the same rows; is it below (1 + margin)
         times the champion's? (quality_test.py)
fairness Where groups have limits: do rates differ more between groups than the champion's? (disparity_test.py)
latency  Is a quantile of its time in the predictor beyond the champion's, with margin and floor? (latency_histogram.py)
memory   Did the memory of a replica grow beyond its limit?
health   Where labels take longer than a rollout, quality cannot carry its steps: agreement of the scores, and what the
         labels would cost if they followed the champion's probabilities, take its place. (health.py)

*Worse* (a regression by any criterion): abort. *Invalid* (a check of the evidence fails, validity/validity_checks.py):
the rollout pauses, and no version is blamed. The error rate's limit, latency and memory are judged before that: they
need neither labels nor the split. Errors of both variants and quality are judged on sound evidence only; they wait
while a check is not settled. *Not worse* (quality within the margin and errors below their limit, both shown; the step
has its minimum counts): advance. A challenger that is a little worse, within the margin, gets whichever is shown first.
Otherwise *undecided*: hold until the step's deadline, then act as the policy declares, but for evidence that may be
invalid, which holds. Absence of evidence of harm never advances a rollout; evidence of absence does. Latency alone
advances nothing, and need not be shown unless the policy says so: see docs/decisions/0013.

Error probabilities of the verdict, over all looks together. A challenger that is no worse than the champion, and within
the limits, is aborted with probability <= alpha: each test spends a part of it, quality the most
(RolloutPolicy.test_alpha). One beyond margin or limit advances with probability <= alpha: to advance, all tests must
reject at alpha. Sound evidence is called invalid with probability <= ``validity_alpha``. The bounds are exact for
errors, accuracy, latency, the split, and the clipped losses of the first rows, where each key comes once; those on loss
are asymptotic in ``min_labeled``, and all are asymptotic in the number of keys where keys repeat. Each of several
challengers is judged separately, with an equal part of alpha: the bounds hold for all of them together
(multi_challenger.py). Evidence is summed over the steps; each step must add its own minimum.
"""

from __future__ import annotations

import math
from typing import Literal

from cluster.values import Frozen
from deployments.analysis import criteria, health
from deployments.analysis.disparity_test import compare_disparities
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, pairwise_share
from deployments.analysis.quality_test import compare_quality, format_costs
from deployments.analysis.sample_ratio import format_keys, log_e_first_keys, log_e_split, possible_shares
from deployments.analysis.validity.check_result import CheckResult
from deployments.analysis.validity.validity_checks import ValidityResult, check_alpha, check_validity
from deployments.analysis.validity.validity_evidence import ValidityEvidence
from deployments.rollout_policy import EvidenceCheck, RolloutPolicy

_LIMITS = (criteria.check_memory_growth, criteria.check_error_rate, criteria.compare_latency)
_COMPARISONS = (criteria.compare_error_rates, compare_quality, compare_disparities)
"""Criteria that only sound evidence can meet or fail."""


class Verdict(Frozen):
    """Verdict on one challenger."""

    kind: Literal["advance", "hold", "abort", "invalid"]
    reason: str
    """A sentence with the figures."""
    figures: dict[str, float]
    """The figures by name; the journal and dashboards keep these names."""
    remark: str = ""
    """Why it holds, in a few words without figures, where a person should know; else empty."""
    check: EvidenceCheck | None = None
    """Which check of the evidence failed; None unless the verdict is "invalid"."""
    compared: bool = False
    """Whether an abort is based on a comparison of both variants, which invalid evidence makes void."""


class RolloutDecision(Frozen):
    """Decision over all challengers of a rollout (multi_challenger.py); fields as in Verdict."""

    kind: Literal["advance", "hold", "drop", "abort", "invalid"]
    versions: tuple[str, ...]
    """Versions that advance, or the one that is dropped."""
    reason: str
    figures: dict[str, float]
    remark: str = ""
    check: EvidenceCheck | None = None


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
    validity = check_evidence(evidence, policy, n_initial)
    of_path = (*health.COMPARISONS, compare_disparities) if policy.path == "health" else _COMPARISONS
    limits, comparisons = ([check(evidence, policy) for check in checks] for checks in (_LIMITS, of_path))
    figures = _count_figures(total, step) | {"given_up": float(evidence.expired_rows)} | validity.figures
    for result in (*limits, *comparisons):
        figures |= result.figures
    if harm := next((result.regression for result in limits if result.regression), ""):
        return Verdict(kind="abort", reason=harm, figures=figures)
    if validity.failed is not None:
        return _invalid(validity.failed, policy, figures)
    unsettled = validity.suspicious or validity.unproven
    # Health needs no labels, so it waits for no proof that they follow the scores.
    waits = validity.suspicious if policy.path == "health" else unsettled
    worse = next((result.regression for result in comparisons if result.regression), "")
    if worse and not unsettled:
        return Verdict(kind="abort", reason=worse, figures=figures, compared=True)
    too_few = _missing_counts(step, at_share, policy)
    missing = too_few or waits or next((r.missing_evidence for r in (*limits, *comparisons) if r.missing_evidence), "")
    if not missing:
        return Verdict(kind="advance", reason=_advance_reason(total, policy), figures=figures)
    if step_age_s < policy.deadline_s:
        return Verdict(kind="hold", reason=f"undecided at {share:.0%}: {missing}", figures=figures)
    default = policy.no_data if too_few else policy.on_undecided
    if validity.suspicious:
        reason = f"past the deadline at {share:.0%}, held: {validity.suspicious}"
        return Verdict(kind="hold", reason=reason, figures=figures, remark="evidence may be invalid")
    reason = f"still undecided at {share:.0%} after {policy.deadline_s:.0f} s ({missing}): {default} by policy"
    return Verdict(kind=default, reason=reason, figures=figures)


def check_evidence(evidence: RolloutEvidence, policy: RolloutPolicy, n_initial: int = 1) -> ValidityResult:
    """Check the evidence; where no rows were collected, the split alone, by the keys of each step.

    Args:
        evidence: All evidence on one challenger.
        policy: The rollout's policy, with the challenger's part of each error rate.
        n_initial: Challengers that the rollout began with.
    """
    labeled, shares = evidence.total.paired.n, possible_shares(policy.steps, n_initial)
    if evidence.validity is None:
        return check_validity(ValidityEvidence(), policy, log_e_split(evidence, shares), format_keys(evidence), labeled)
    split = log_e_first_keys(evidence.validity.first_keys, len(shares))
    return check_validity(evidence.validity, policy, split, format_keys(evidence), labeled)


def _invalid(failed: CheckResult, policy: RolloutPolicy, figures: dict[str, float]) -> Verdict:
    reason, remark = failed.reason, f"invalid: {failed.check}"
    if math.isfinite(failed.log_e):
        rate = check_alpha(failed.check, policy)
        reason += f"; chance alone fails this check in at most {rate:.2%} of sound rollouts"
    return Verdict(kind="invalid", reason=reason, figures=figures, remark=remark, check=failed.check)


def _missing_counts(step: ComparisonEvidence, share: float, policy: RolloutPolicy) -> str:
    """Which minimum count this step has not reached; empty when none. At share 1 the champion gets no requests."""
    if step.scored.answered < policy.min_requests:
        return f"{step.scored.answered} of {policy.min_requests} requests"
    if share < 1.0 and step.champion.requests < policy.min_requests:
        return f"{step.champion.requests} of {policy.min_requests} requests to the champion"
    if policy.path == "health":
        return health.missing_rows(step, policy)
    if step.paired.n < policy.min_labeled:
        return f"{step.paired.n} of {policy.min_labeled} labeled rows"
    return ""


def _advance_reason(total: ComparisonEvidence, policy: RolloutPolicy) -> str:
    if policy.path == "health":
        return health.describe_health(total, policy)
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
