"""Checks of logged rows, without labels: variants, scores, duplicates, lost requests. Pure."""

from __future__ import annotations

import math

import numpy as np

from deployments.analysis.sequential_tests import log_e_above, log_e_multinomial
from deployments.analysis.validity.check_result import SCALE, CheckResult, format_estimates, strongest
from deployments.analysis.validity.validity_evidence import Suspects, ValidityEvidence
from deployments.rollout_policy import EvidenceCheck

MOST_DUPLICATES = 0.05
"""Rate of repeated ids, or of changed labels, up to which clients may send requests or labels again."""
_CONCENTRATION = 50.0


def check_variant(evidence: ValidityEvidence) -> CheckResult:
    """Is each row logged for the variant that its key and the share in force give?"""
    finding = f"{evidence.misassigned.rows} rows are logged for the variant that their key does not belong to"
    return _certain("variant", evidence.misassigned, finding)


def check_scores(evidence: ValidityEvidence) -> CheckResult:
    """Is each answer the score of the variant that answered, and are the champion's scores the same in both?"""
    if evidence.inconsistent.rows:
        finding = f"{evidence.inconsistent.rows} answers are not the score of the variant that answered"
        return _certain("scores", evidence.inconsistent, finding)
    if evidence.differing.rows:
        finding = f"{evidence.differing.rows} of {evidence.rescored} rows got other scores when they were scored again"
        return _certain("scores", evidence.differing, finding)
    log_e = strongest([estimate.log_e(scale=SCALE) for estimate in evidence.champion_scores])
    finding = (
        "the champion's scores differ between the variants: in the challenger's rows they, and their distances from "
        f"the middle, rank {format_estimates(evidence.champion_scores)} places of 100 higher, where 0 is expected"
    )
    return CheckResult(check="scores", log_e=log_e, finding=finding, ids=evidence.named.get("scores", ()))


def check_requests(evidence: ValidityEvidence) -> CheckResult:
    """Are answered requests that were not logged split as requests are?"""
    log_e = [
        log_e_multinomial(np.array(counts), np.array([1.0 - share, share]), _CONCENTRATION)
        for share, counts in evidence.lost.items()
        if 0.0 < share < 1.0
    ]
    lost = [sum(counts) for counts in zip(*evidence.lost.values(), strict=True)] or [0, 0]
    finding = f"{lost[1]} answered requests of the challenger and {lost[0]} of the champion were not logged"
    return CheckResult(check="requests", log_e=strongest(log_e), finding=finding)


def check_duplicates(evidence: ValidityEvidence) -> CheckResult:
    """Do few rows have the id of another, and few labels contradict an earlier one?"""
    repeated, changed = evidence.repeated_rows, evidence.changed_labels
    log_e = [
        float(log_e_above(suspects.rows, units + suspects.rows, MOST_DUPLICATES))
        for suspects, units in ((repeated, evidence.rows), (changed, evidence.labeled))
        if suspects.rows
    ]
    finding = (
        f"{repeated.rows} rows have the id of another one, and {changed.rows} labels contradict an earlier one, "
        f"of {evidence.rows} rows and {evidence.labeled} labels"
    )
    return CheckResult(check="duplicates", log_e=strongest(log_e, 2), finding=finding, ids=repeated.ids or changed.ids)


def _certain(check: EvidenceCheck, suspects: Suspects, finding: str) -> CheckResult:
    return CheckResult(check=check, log_e=math.inf if suspects.rows else 0.0, finding=finding, ids=suspects.ids)
