"""Checks of labels: coverage, delay, distribution, and the champion's live loss. Pure."""

from __future__ import annotations

import math
from itertools import zip_longest

from deployments.analysis.sequential_tests import log_e_above, log_e_below
from deployments.analysis.validity.check_result import SCALE, CheckResult, format_estimates, strongest
from deployments.analysis.validity.sample_evidence import HALF
from deployments.analysis.validity.validity_evidence import Rate, ValidityEvidence

MOST_FAR_OFF = 0.25
"""Of a regression's labels: by Markov's inequality, as many are far off when the squared error has tripled."""
MOST_ODDS = 4.0
"""Factor by which the odds of a class may differ from what the champion expects."""


def check_coverage(evidence: ValidityEvidence) -> CheckResult:
    """Have both variants labels for the same share of rows, whatever the champion's score? Do labels come as before?"""
    between, before = [estimate.log_e(scale=SCALE) for estimate in evidence.coverage], evidence.log_e_fewer_labels
    log_e = strongest([*between, before])
    finding = (
        "the variants do not have labels for the same share of rows: the challenger's differs by "
        f"{format_estimates(evidence.coverage)} percentage points (all rows; those with low, middle, high scores)"
    )
    if before > max(between, default=0.0):
        finding = "less than a third of the labels come that came before the rollout, or they come much later"
    return CheckResult(check="coverage", log_e=log_e, finding=finding, ids=evidence.named.get("coverage", ()))


def check_delay(evidence: ValidityEvidence) -> CheckResult:
    """Do labels take as long in both variants?"""
    finding = (
        "labels take longer in one variant than in the other: among all delays, those of the challenger rank "
        f"{format_estimates((evidence.delay,))} places of 100 higher, where 0 is expected"
    )
    ids = evidence.named.get("delay", ())
    return CheckResult(check="delay", log_e=evidence.delay.log_e(scale=SCALE), finding=finding, ids=ids)


def check_labels(evidence: ValidityEvidence) -> CheckResult:
    """Have both variants the same labels, and about as many of each class as a version expects, or as in training?

    Versions that were trained before the data drifted may all but rule out a class that is as frequent as ever.
    """
    between = [estimate.log_e(scale=SCALE) for estimate in evidence.labels]
    pairs = zip_longest(
        evidence.champion_labels.class_shares,
        evidence.challenger_labels.class_shares,
        evidence.trained_shares[: len(evidence.champion_labels.class_shares)],
    )
    expected = [_log_e_unexpected(ours, theirs, trained) for ours, theirs, trained in pairs if ours and theirs]
    finding = (
        f"labels differ between the variants: those of the challenger by {format_estimates(evidence.labels)} of 100 "
        "(places among all values, or percentage points of each class), where 0 is expected"
    )
    shares = [f"{rate.count / rate.units:.2%}" for rate, _ in evidence.champion_labels.class_shares if rate.units]
    if shares:
        champion, challenger = (
            ", ".join(f"{share:.2%}" for _, share in each.class_shares)
            for each in (evidence.champion_labels, evidence.challenger_labels)
        )
        finding += f"; classes are {', '.join(shares)}, the champion expects {champion}, the challenger {challenger}"
        if evidence.trained_shares:
            finding += f"; in training they were {', '.join(f'{share:.2%}' for share in evidence.trained_shares)}"
    log_e = strongest([*between, *expected])
    return CheckResult(check="labels", log_e=log_e, finding=finding, ids=evidence.named.get("labels", ()))


def check_loss(evidence: ValidityEvidence) -> CheckResult:
    """Is the champion's loss the same in both variants, and that of one version better than a constant's?

    And do labels follow no version's scores so closely that they must have been made from them?

    A champion that has decayed is no fault of the labels, as long as the challenger's scores agree with them; and the
    other way round. Of two e-values against "one of the versions agrees", the smaller one counts.
    """
    versions = (evidence.champion_labels, evidence.challenger_labels)
    unrelated = min(each.slope.log_e(HALF, scale=HALF, side=-1) for each in versions)
    far_off = [each.far_off for each in versions if each.far_off is not None]
    beyond = min((float(log_e_above(rate.count, rate.units, MOST_FAR_OFF)) for rate in far_off), default=0.0)
    finding = (
        f"labels follow the champion's scores with slope {versions[0].slope.value:.2f}, the challenger's with "
        f"{versions[1].slope.value:.2f}, where 1 is expected and one of them has to reach {HALF}"
    )
    if far_off:
        shares = " and ".join(f"{rate.count / rate.units:.0%}" for rate in far_off if rate.units)
        finding += f"; {shares} of the labels are far off, where {MOST_FAR_OFF:.0%} is the limit"
    rank = format_estimates((evidence.champion_loss,))
    finding += f"; the champion's loss ranks {rank} places of 100 higher in the challenger's rows, where 0 is expected"
    others, copied = [unrelated, beyond, evidence.champion_loss.log_e(scale=SCALE)], [e.log_e_copied for e in versions]
    if max(copied) > max(others):
        finding = "labels follow the scores of a version as if they were made from them"
    log_e = strongest([*others, *copied])
    return CheckResult(check="loss", log_e=log_e, finding=finding, ids=evidence.named.get("loss", ()))


def _log_e_unexpected(ours: tuple[Rate, float], theirs: tuple[Rate, float], trained: float | None) -> float:
    """Log e-value against "a class is about as frequent as one of the versions expects, or as it was in training"."""
    log_e = min(_log_e_odds(*ours), _log_e_odds(*theirs))
    # A class that was never, or always, in training says nothing.
    return min(log_e, _log_e_odds(ours[0], trained)) if trained and trained < 1.0 else log_e


def _log_e_odds(rate: Rate, share: float) -> float:
    """Log e-value against "the odds of a class are within MOST_ODDS of those expected"; half for each side."""
    count, units = rate.count, rate.units
    if not 0.0 < share < 1.0:
        return 0.0
    odds = share / (1.0 - share)
    low, high = (factor * odds / (1.0 + factor * odds) for factor in (1.0 / MOST_ODDS, MOST_ODDS))
    sides = float(log_e_below(count, units, low)), float(log_e_above(count, units, high))
    return max(sides) - math.log(2.0)
