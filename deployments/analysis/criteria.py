"""The questions that are asked of a challenger, each answered by tests that stay valid however often one looks. Pure.

Every test that may stop a challenger spends ``policy.test_alpha``. Every test that must be passed to advance spends
``policy.alpha``: all of them must be, so the chance to pass wrongly is that of the one whose null holds.
"""

from __future__ import annotations

import math

from pydantic import Field

from cluster.values import Frozen
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.sample_ratio import log_e_split, shares_dealt
from deployments.analysis.sequential_tests import log_e_above, log_e_below, log_e_more
from deployments.rollout_policy import RolloutPolicy


class Answer(Frozen):
    """``harm``: how the challenger is worse. ``lacking``: what is missing to advance. Sentences; empty for nothing."""

    harm: str = ""
    lacking: str = ""
    figures: dict[str, float] = Field(default_factory=dict)


def errors(evidence: RolloutEvidence, policy: RolloutPolicy) -> Answer:
    """Does the challenger fail more than ``max_error_rate`` of the requests that the champion can answer?

    Where keys repeat, or requests of one moment fail together, counts are divided by the estimated design effect to show
    harm; by the largest that repeated keys can have to show that there is none.
    """
    arm, limit = evidence.total.challenger, policy.max_error_rate
    effect, worst = arm.design_effect, arm.kish_effect
    above = float(log_e_above(arm.errors / effect, arm.requests / effect, limit))
    below = float(log_e_below(arm.errors / worst, arm.requests / worst, limit))
    harm = (
        f"the challenger failed {arm.errors} of {arm.requests} requests that the champion answered, "
        f"more than {limit:.1%} is allowed"
    )
    lacking = f"{arm.requests} requests with {arm.errors} errors do not yet show an error rate below {limit:.1%}"
    return Answer(
        harm=harm if above >= math.log(1.0 / policy.test_alpha) else "",
        lacking=lacking if below < math.log(1.0 / policy.alpha) else "",
        figures={"log_e_errors_above": above, "log_e_errors_below": below},
    )


def errors_compared(evidence: RolloutEvidence, policy: RolloutPolicy) -> Answer:
    """Does the challenger fail more often than the champion, beyond ``error_margin``?

    Given an error, whose is it? What is shown to be below ``max_error_rate`` is no harm: the limit allows it.
    """
    if policy.error_margin is None:
        return Answer()
    champion, challenger = evidence.total.champion, evidence.total.challenger
    effect = max(champion.design_effect, challenger.design_effect)
    counts = {s: (e.champion.failures / effect, e.challenger.failures / effect) for s, e in evidence.by_share.items()}
    figures = {"log_e_more_errors": log_e_more(counts, policy.error_margin)}
    shown = figures["log_e_more_errors"] >= math.log(1.0 / policy.test_alpha)
    if not shown or challenger.requests < policy.min_requests or not errors(evidence, policy).lacking:
        return Answer(figures=figures)
    harm = (
        f"the challenger failed {challenger.failures} of {challenger.requests} requests, the champion "
        f"{champion.failures} of {champion.requests}: more often, and not shown to be below {policy.max_error_rate:.1%}"
    )
    return Answer(harm=harm, figures=figures)


def memory(evidence: RolloutEvidence, policy: RolloutPolicy) -> Answer:
    """Did a replica of the challenger grow further than it may? A reading, not a sample: it spends no alpha."""
    if policy.max_growth_mib is None:
        return Answer()
    grown = evidence.grown_mib
    harm = f"the challenger's memory grew by {grown:.0f} MiB since it was loaded, {policy.max_growth_mib:.0f} MiB are allowed"
    figures = {"challenger_grown_mib": grown}
    return Answer(harm=harm if grown > policy.max_growth_mib else "", figures=figures)


def latency(evidence: RolloutEvidence, policy: RolloutPolicy) -> Answer:
    """Is a quantile of the challenger's time in the predictor beyond the champion's, with margin and floor?

    Each variant's bound spends half of what the comparison may.
    """
    if policy.latency_quantile is None:
        return Answer()
    at, total = policy.latency_quantile, evidence.total
    champion, challenger = total.champion.latency, total.challenger.latency
    half = policy.test_alpha / 2.0
    figures = {
        "champion_latency_ms": champion.quantile(at),
        "challenger_latency_ms": challenger.quantile(at),
        "champion_latency_upper_ms": champion.upper_limit(at, half),
        "challenger_latency_lower_ms": challenger.lower_limit(at, half),
    }
    told = (
        f"the {at:.0%} quantile of its time in the predictor is {figures['challenger_latency_ms']:.1f} ms against "
        f"{figures['champion_latency_ms']:.1f} ms"
    )
    slower = figures["challenger_latency_lower_ms"] > _allowed_ms(figures["champion_latency_upper_ms"], policy)
    harmed = slower and total.challenger.requests >= policy.min_requests
    lacks = policy.latency_to_advance and not _shown_quick(evidence, policy)
    return Answer(
        harm=f"the challenger is slower: {told}" if harmed else "",
        lacking=f"{told}, and not yet shown to be within {policy.latency_margin:.0%}" if lacks else "",
        figures=figures,
    )


def split(evidence: RolloutEvidence, policy: RolloutPolicy, shares: tuple[float, ...]) -> Answer:
    """Was the traffic dealt as configured? If not, that is no harm of the challenger's, but nothing can be compared.

    ``shares`` are all that may have been configured (sample_ratio.shares_possible).
    """
    figures = {"log_e_split": log_e_split(evidence, shares)}
    if figures["log_e_split"] < math.log(1.0 / policy.test_alpha):
        return Answer(figures=figures)
    dealt = ", ".join(f"{b} of {a + b} keys at {share:.0%}" for share, (a, b) in shares_dealt(evidence).items())
    return Answer(lacking=f"the split is broken: the challenger was dealt {dealt}", figures=figures)


def _allowed_ms(champion_ms: float, policy: RolloutPolicy) -> float:
    return (1.0 + policy.latency_margin) * champion_ms + policy.latency_floor_ms


def _shown_quick(evidence: RolloutEvidence, policy: RolloutPolicy) -> bool:
    assert policy.latency_quantile is not None
    at, half = policy.latency_quantile, policy.alpha / 2.0
    champion_ms = evidence.total.champion.latency.lower_limit(at, half)
    return evidence.total.challenger.latency.upper_limit(at, half) <= _allowed_ms(champion_ms, policy)
