"""Criteria that a challenger must meet, each checked by tests that stay valid no matter how often you look. Pure.

Every test that may stop a challenger spends its part of alpha (``policy.test_alpha``). Every test that must pass before
an advance spends ``policy.alpha``: all of them must pass, so the chance of a wrong pass is that of the one test whose
null holds.
"""

from __future__ import annotations

import math

from pydantic import Field

from cluster.values import Frozen
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.sequential_tests import log_e_above, log_e_below, log_e_rate_ratio
from deployments.rollout_policy import RolloutPolicy


class CriterionResult(Frozen):
    """Result of one criterion."""

    regression: str = ""
    """A sentence that says how the challenger is worse; empty when it is not shown to be."""
    missing_evidence: str = ""
    """A sentence that says what is not yet shown to advance; empty when nothing is missing."""
    figures: dict[str, float] = Field(default_factory=dict)


def check_error_rate(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer?

    Copies count as its own requests do, except that one without an answer in time, for whatever reason, is no error to
    show a regression, and is one to show that there is none.

    Where keys repeat, or requests fail together within a time bucket, counts are divided by the estimated design effect
    to show a regression, and by the largest possible effect of repeated keys to show that there is none.
    """
    stats, limit = evidence.total.scored, policy.max_error_rate
    effect, worst = stats.design_effect, stats.kish_effect
    above = float(log_e_above(stats.errors / effect, stats.requests / effect, limit))
    below = float(log_e_below((stats.errors + stats.unanswered) / worst, stats.requests / worst, limit))
    regression = (
        f"the challenger failed {stats.errors} of {stats.requests} requests that the champion answered, "
        f"more than {limit:.1%} is allowed"
    )
    unanswered = f" and {stats.unanswered} copies without an answer" if stats.unanswered else ""
    missing = (
        f"{stats.requests} requests with {stats.errors} errors{unanswered} do not yet show an error rate below "
        f"{limit:.1%}"
    )
    return CriterionResult(
        regression=regression if above >= math.log(1.0 / policy.test_alpha("error_rate")) else "",
        missing_evidence=missing if below < math.log(1.0 / policy.alpha) else "",
        figures={"log_e_errors_above": above, "log_e_errors_below": below},
    )


def compare_error_rates(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Does the challenger fail more often than the champion, beyond ``error_margin``?

    The test conditions on an error and asks whose it is. An error rate that is shown to be below ``max_error_rate`` is
    no regression: the limit allows it.
    """
    if policy.error_margin is None:
        return CriterionResult()
    champion, challenger = evidence.total.champion, evidence.total.challenger
    effect = max(champion.design_effect, challenger.design_effect)
    counts = {s: (e.champion.failures / effect, e.challenger.failures / effect) for s, e in evidence.by_share.items()}
    figures = {"log_e_more_errors": log_e_rate_ratio(counts, policy.error_margin)}
    shown = figures["log_e_more_errors"] >= math.log(1.0 / policy.test_alpha("error_ratio"))
    enough = challenger.requests >= policy.min_requests
    if not (shown and enough and check_error_rate(evidence, policy).missing_evidence):
        return CriterionResult(figures=figures)
    regression = (
        f"the challenger failed {challenger.failures} of {challenger.requests} requests, the champion "
        f"{champion.failures} of {champion.requests}: more often, and not shown to be below {policy.max_error_rate:.1%}"
    )
    return CriterionResult(regression=regression, figures=figures)


def check_memory_growth(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Did the memory of a challenger's replica grow beyond its limit? A reading, not a sample: it spends no alpha."""
    if policy.max_growth_mib is None:
        return CriterionResult()
    growth = evidence.memory_growth_mib
    regression = (
        f"the challenger's memory grew by {growth:.0f} MiB since it was loaded, "
        f"more than the {policy.max_growth_mib:.0f} MiB that are allowed"
    )
    figures = {"challenger_grown_mib": growth}
    return CriterionResult(regression=regression if growth > policy.max_growth_mib else "", figures=figures)


def compare_latency(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Is a quantile of the challenger's time in the predictor beyond the champion's, with margin and floor?

    The bound of each variant spends half of the comparison's alpha.
    """
    if policy.latency_quantile is None:
        return CriterionResult()
    at, total = policy.latency_quantile, evidence.total
    champion, challenger = total.champion.latency, total.challenger.latency
    half = policy.test_alpha("latency") / 2.0
    figures = {
        "champion_latency_ms": champion.quantile(at),
        "challenger_latency_ms": challenger.quantile(at),
        "champion_latency_upper_ms": champion.upper_bound(at, half),
        "challenger_latency_lower_ms": challenger.lower_bound(at, half),
    }
    summary = (
        f"the {at:.0%} quantile of its time in the predictor is {figures['challenger_latency_ms']:.1f} ms against "
        f"{figures['champion_latency_ms']:.1f} ms"
    )
    slower = figures["challenger_latency_lower_ms"] > _allowed_ms(figures["champion_latency_upper_ms"], policy)
    is_regression = slower and total.challenger.requests >= policy.min_requests
    lacks_evidence = policy.latency_to_advance and not _latency_within_margin(evidence, policy)
    missing = f"{summary}, and not yet shown to be within {policy.latency_margin:.0%}"
    return CriterionResult(
        regression=f"the challenger is slower: {summary}" if is_regression else "",
        missing_evidence=missing if lacks_evidence else "",
        figures=figures,
    )


def _allowed_ms(champion_ms: float, policy: RolloutPolicy) -> float:
    return (1.0 + policy.latency_margin) * champion_ms + policy.latency_floor_ms


def _latency_within_margin(evidence: RolloutEvidence, policy: RolloutPolicy) -> bool:
    assert policy.latency_quantile is not None
    at, half = policy.latency_quantile, policy.alpha / 2.0
    champion_ms = evidence.total.champion.latency.lower_bound(at, half)
    return evidence.total.challenger.latency.upper_bound(at, half) <= _allowed_ms(champion_ms, policy)
