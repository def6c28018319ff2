"""Is the evidence sound? The checks before quality is judged, with one error rate for all of them. Pure.

variant     the variant of each logged row is that of its key and the share in force
scores      each answer is the score of the variant that answered; a sample that is scored again gives the logged
            scores; the champion's scores are distributed alike in both variants
split       first-time keys are split as configured (sample_ratio.py)
requests    answered requests that were not logged are split as requests are
duplicates  few rows have the id of another, few labels contradict an earlier one
coverage    both variants have labels for the same share of rows, whatever the champion's score
delay       labels take as long in both variants
labels      both variants have the same labels; those of each class are about as many as one version expects
loss        the champion's loss is the same in both variants; labels follow the scores of one version at least half as
            far as calibrated ones do; regression: few labels are far off for both versions

What both variants share (drift, seasons, a new population) leaves the comparisons between the variants as they are,
because keys are assigned at random. The checks of labels against scores have bounds far outside of what drift does:
they find labels for which a constant would do as well as either version, and labels in another unit. A champion that
has decayed fails none of them beside a challenger that has not.

"variant" and the scores of single rows are certain. The other checks are e-processes; "split" spends half of
``policy.validity_alpha``, and the others share the rest equally. Each check divides its part among its tests. By
Ville's inequality, P(sup e >= 1 / a) <= a, the probability that sound evidence is ever called invalid is at most
``validity_alpha``, and the probability that it ever makes quality wait, beyond the first EARLY_ROWS labeled rows, is at
most HOLD_RATE times that; both asymptotically in the number of keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pydantic import Field

from cluster.values import Frozen
from deployments.analysis.validity import label_checks, row_checks
from deployments.analysis.validity.check_result import CheckResult
from deployments.analysis.validity.validity_evidence import ValidityEvidence
from deployments.rollout_policy import EvidenceCheck, RolloutPolicy

SPLIT_PART = 0.5
"""Part of the error rate that the split spends: it is the one check that needs no label."""
HOLD_RATE = 5.0
"""Bound on the probability that sound evidence ever makes quality wait, as a multiple of ``validity_alpha``."""
EARLY_LOG_E, EARLY_ROWS = 2.0, 500
"""Log e-value from which on quality waits for a check while fewer rows are labeled: sound evidence is held by it more
often, but not for long, also where no more rows come that could settle the check."""
UNPROVEN_ROWS = 1_000
"""Labeled rows after which quality is judged although labels are not yet shown to be related to scores."""
_CHECKS: tuple[Callable[[ValidityEvidence], CheckResult], ...] = (
    row_checks.check_variant, row_checks.check_scores, row_checks.check_requests, row_checks.check_duplicates,
    label_checks.check_coverage, label_checks.check_delay, label_checks.check_labels, label_checks.check_loss,
)  # fmt: skip


class ValidityResult(Frozen):
    """Result of all checks."""

    failed: CheckResult | None = None
    suspicious: str = ""
    """Which check may fail soon; empty for none."""
    unproven: str = ""
    """Why labels are not yet known to belong to the scores; empty when they are."""
    figures: dict[str, float] = Field(default_factory=dict)


def check_validity(
    evidence: ValidityEvidence, policy: RolloutPolicy, split: float, keys: str, labeled: int
) -> ValidityResult:
    """Check the evidence on one challenger.

    Args:
        evidence: Evidence about its rows and labels.
        policy: The rollout's policy.
        split: Log e-value of the split (sample_ratio.py).
        keys: Keys by share, for people.
        labeled: Labeled rows that both variants scored.
    """
    finding = f"the traffic was not split as configured: the challenger got {keys}"
    results = [CheckResult(check="split", log_e=split, finding=finding)]
    results += [check(evidence) for check in _CHECKS]
    results = [result for result in results if result.check not in policy.unchecked]
    limits = {result.check: math.log(1.0 / check_alpha(result.check, policy)) for result in results}
    figures = {f"log_e_{result.check}": result.log_e for result in results}
    failed = _most_extreme(results, limits)
    most = EARLY_LOG_E if labeled < EARLY_ROWS else math.inf
    suspect = _most_extreme(results, {check: min(limit - math.log(HOLD_RATE), most) for check, limit in limits.items()})
    suspicious = f"the check of {suspect.check} is not settled: {suspect.finding}" if suspect else ""
    unproven = "" if "loss" in policy.unchecked else _unproven(evidence, policy)
    return ValidityResult(failed=failed, suspicious=suspicious, unproven=unproven, figures=figures)


def check_alpha(check: EvidenceCheck, policy: RolloutPolicy) -> float:
    """Part of the error rate that a check spends."""
    if check == "split":
        return SPLIT_PART * policy.validity_alpha
    return (1.0 - SPLIT_PART) * policy.validity_alpha / len(_CHECKS)


def _most_extreme(results: list[CheckResult], limits: dict[EvidenceCheck, float]) -> CheckResult | None:
    """The check that is furthest beyond its limit; None if none is."""
    beyond = [result for result in results if result.log_e >= limits[result.check]]
    return max(beyond, key=lambda result: result.log_e - limits[result.check], default=None)


def _unproven(evidence: ValidityEvidence, policy: RolloutPolicy) -> str:
    relations = [each.relation for each in (evidence.champion_labels, evidence.challenger_labels)]
    rows = max(relation.rows for relation in relations)
    if rows >= UNPROVEN_ROWS or not evidence.labeled:
        return ""
    limit = math.log(len(relations) / policy.validity_alpha)
    if any(relation.log_e(scale=1.0, side=1) >= limit for relation in relations):
        return ""
    return f"{rows} labeled rows do not yet show that labels follow the scores"
