"""The question of quality: what do the two variants' predictions cost, on the same labelled rows? Pure.

For the metric "loss" by asymptotic confidence sequences, for "accuracy" by betting, which is exact however few the
rows.
"""

from __future__ import annotations

import math

from deployments.analysis.criteria import Answer
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.mean_bounds import lower_bound, upper_bound
from deployments.analysis.paired_moments import Paired
from deployments.analysis.sequential_tests import log_wealth
from deployments.rollout_policy import RolloutPolicy

MINIMUM_PAIRS = 30
"""Below it a standard deviation is too poorly known for the asymptotic sequence, whatever the policy asks."""


def quality(evidence: RolloutEvidence, policy: RolloutPolicy) -> Answer:
    """Is the challenger's mean cost above the champion's; is it below (1 + margin) times the champion's?

    Harm is the first without the second.
    """
    paired = evidence.total.paired
    worse, within, figures = (_mistakes if policy.metric == "accuracy" else _means)(paired, policy)
    told = told_costs(paired, policy)
    harm = f"the challenger is worse: {told}, and not shown to be within the margin of {policy.margin:.1%}"
    if not _enough(paired, policy):
        lacking = f"{paired.n} labelled rows tell as much as {paired.strangers:.0f} of keys that come once"
    else:
        lacking = f"{told} do not yet show that it is within the margin of {policy.margin:.1%}"
    enough = _enough(paired, policy)
    return Answer(
        harm=harm if enough and worse and not within else "",
        lacking="" if enough and within else lacking,
        figures=figures,
    )


def told_costs(paired: Paired, policy: RolloutPolicy) -> str:
    """Mean costs, for people."""
    champion, challenger = paired.champion, paired.challenger
    if policy.metric == "accuracy":
        return f"accuracy {1.0 - challenger:.2%} against {1.0 - champion:.2%} on {paired.n} labelled rows"
    return f"loss {challenger:.4f} against {champion:.4f} on {paired.n} labelled rows"


def difference_limits(paired: Paired, policy: RolloutPolicy) -> tuple[float, float]:
    """Limits of the challenger's mean cost less the champion's, of which each is ever wrong with probability <= alpha / 2.

    For accuracy by betting against every mean: those against which nothing is won lie between the limits.
    """
    excess, half = paired.excess(0.0), policy.alpha / 2.0
    if policy.metric != "accuracy":
        return lower_bound(excess, half, policy.optimum), upper_bound(excess, half, policy.optimum)
    _, champion, challenger = _wrong(paired)
    cells = [(1.0, challenger), (-1.0, champion), (0.0, max(paired.n - champion - challenger, 0.0))]
    counted = [(value, count / excess.design_effect) for value, count in cells]
    return _bet_limit(counted, half), -_bet_limit([(-value, count) for value, count in counted], half)


def _bet_limit(cells: list[tuple[float, float]], alpha: float) -> float:
    """The largest mean of values in [-1, 1], to some 1e-6, that they are shown to lie above."""
    low, high = -1.0, 1.0
    for _ in range(21):
        middle = (low + high) / 2.0
        # Halved, no value lies below -1, whatever the mean; and the larger the mean, the less is won.
        won = log_wealth([((value - middle) / 2.0, count) for value, count in cells])
        low, high = (middle, high) if won >= math.log(1.0 / alpha) else (low, middle)
    return low


def _enough(paired: Paired, policy: RolloutPolicy) -> bool:
    """Whether what follows holds: it is asymptotic in the number of keys, unless bets are made on strangers."""
    exact = policy.metric == "accuracy" and not paired.repeats.pairs
    return exact or paired.strangers >= MINIMUM_PAIRS


def _means(paired: Paired, policy: RolloutPolicy) -> tuple[bool, bool, dict[str, float]]:
    """Shown to be worse, shown to be within the margin, and the bounds that show it."""
    figures = {
        "difference_lower": lower_bound(paired.excess(0.0), policy.test_alpha, policy.optimum),
        "excess_upper": upper_bound(paired.excess(policy.margin), policy.alpha, policy.optimum),
    }
    worse = figures["difference_lower"] > 0.0 and paired.strangers >= policy.pairs_needed
    return worse, figures["excess_upper"] <= 0.0, figures


def _mistakes(paired: Paired, policy: RolloutPolicy) -> tuple[bool, bool, dict[str, float]]:
    """The same by bets on the four ways in which two variants can be right or wrong about a row."""
    both, champion, challenger = _wrong(paired)
    difference, excess = paired.excess(0.0).design_effect, paired.excess(policy.margin).design_effect
    lost = [(1.0, challenger / difference), (-1.0, champion / difference)]
    spared = [(-1.0, challenger / excess), (1.0 + policy.margin, champion / excess), (policy.margin, both / excess)]
    figures = {"log_e_worse": log_wealth(lost), "log_e_within": log_wealth(spared)}
    worse = figures["log_e_worse"] >= math.log(1.0 / policy.test_alpha)
    return worse, figures["log_e_within"] >= math.log(1.0 / policy.alpha), figures


def _wrong(paired: Paired) -> tuple[float, float, float]:
    """How many rows both variants were wrong about, and the champion or the challenger alone."""
    both = max(paired.co + paired.n * paired.champion * paired.challenger, 0.0)
    champion, challenger = (max(paired.n * mean - both, 0.0) for mean in (paired.champion, paired.challenger))
    return both, champion, challenger
