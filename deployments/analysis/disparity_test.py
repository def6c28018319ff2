"""Fairness criterion: do the challenger's decisions differ more between groups than the champion's? Pure.

The disparity of a variant is the largest difference of a rate between two groups. Both variants are compared on the
same rows, so what they have in common cancels. A contrast of two differences, challenger's less champion's, is a sum of
group means, and its confidence limits are those of an asymptotic sequence (cluster/confidence_sequences.py): group
means are asymptotically normal on the clock of their rows.

- Worse: for some two groups the challenger's difference exceeds that of any two groups of the champion by more than the
  limit. Every contrast with the champion must show it (an intersection-union test, Berger 1982), so only the
  challenger's pairs of groups share the error.
- Within the limit: every difference of the challenger's is shown to exceed one of the champion's by at most the limit:
  that of the same groups, in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import permutations

from cluster.confidence_sequences import half_width
from deployments.analysis.criteria import CriterionResult
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.group_decisions import GroupCounts
from deployments.rollout_policy import RolloutPolicy
from features.disparity import DisparityLimit

Pair = tuple[str, str]
"""Two groups: the rate of the first less that of the second."""

_CELL_PRIOR = 0.5
"""Rows that each outcome of both variants has in the variance beside those observed: a rate of 0 is no certainty."""


def compare_disparities(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Does a rate differ more between groups for the challenger than for the champion, beyond a limit?

    On the path of health, rates that need labels are not needed to advance.
    """
    results = [_compare(limit, evidence, policy) for limit in policy.disparity]
    figures: dict[str, float] = {}
    for result in results:
        figures |= result.figures
    return CriterionResult(
        regression=next((r.regression for r in results if r.regression), ""),
        missing_evidence=next((r.missing_evidence for r in results if r.missing_evidence), ""),
        figures=figures,
    )


def _compare(limit: DisparityLimit, evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    needed = policy.path == "labels" or limit.rate == "positive"
    groups = {n: c for n, c in evidence.total.groups.of(limit.name).items() if c.effective_rows >= limit.min_rows}
    if len(groups) < 2:
        missing = f"{len(groups)} groups have the {limit.min_rows} rows that the {limit.name} needs to be compared"
        return CriterionResult(missing_evidence=missing if needed else "")
    champion, challenger = (_largest(groups, variant) for variant in (0, 1))
    costs = f"the {limit.name} differs by {challenger:.3g} between groups, that of the champion by {champion:.3g}"
    pairs = list(permutations(groups, 2))
    alpha = policy.test_alpha("disparity") / len(policy.disparity) / math.perm(len(limit.groups), 2)
    widest = max(pairs, key=lambda pair: groups[pair[0]].rates[1] - groups[pair[1]].rates[1])
    lower = _least_excess(groups, widest, pairs, alpha, policy)
    upper = max(_most_excess(groups, pair, policy) for pair in pairs)
    regression = (
        f"the challenger treats groups differently: {costs}; at most {limit.max_difference:.3g} more is allowed"
    )
    missing = f"{costs}, which does not yet show that it is at most {limit.max_difference:.3g} more"
    return CriterionResult(
        regression=regression if lower > limit.max_difference else "",
        missing_evidence=missing if needed and upper > limit.max_difference else "",
        figures={
            f"champion {limit.name}": champion,
            f"challenger {limit.name}": challenger,
            f"excess of {limit.name}, lower": lower,
            f"excess of {limit.name}, upper": upper,
        },
    )


def _largest(groups: Mapping[str, GroupCounts], variant: int) -> float:
    rates = [counts.rates[variant] for counts in groups.values()]
    return max(rates) - min(rates)


def _least_excess(
    groups: Mapping[str, GroupCounts], pair: Pair, pairs: Iterable[Pair], alpha: float, policy: RolloutPolicy
) -> float:
    """What the challenger's difference of a pair exceeds every difference of the champion's by, at least."""
    return min(mean - width for mean, width in (_contrast(groups, pair, other, alpha, policy) for other in pairs))


def _most_excess(groups: Mapping[str, GroupCounts], pair: Pair, policy: RolloutPolicy) -> float:
    """What the challenger's difference of a pair exceeds the champion's largest by, at most."""
    choices = (pair, (pair[1], pair[0]))
    alpha = policy.alpha / len(choices)
    return min(mean + width for mean, width in (_contrast(groups, pair, other, alpha, policy) for other in choices))


def _contrast(
    groups: Mapping[str, GroupCounts], pair: Pair, other: Pair, alpha: float, policy: RolloutPolicy
) -> tuple[float, float]:
    """The challenger's difference of one pair less the champion's of another, and the distance of its limits."""
    mean, variance = 0.0, 0.0
    involved = {*pair, *other}
    rows = min(groups[name].rows for name in involved)
    for name in involved:
        counts, (champion, challenger) = groups[name], groups[name].rates
        factors = (other[1] == name) - (other[0] == name), (pair[0] == name) - (pair[1] == name)
        mean += factors[0] * champion + factors[1] * challenger
        variance += _variance(counts, *factors) * rows / counts.effective_rows
    return mean, half_width(variance, rows, alpha, policy.sharpest_n, 1)


def _variance(counts: GroupCounts, champion: int, challenger: int) -> float:
    """Variance, over the rows of a group, of the hits of both variants times their factors."""
    cells = (
        (champion + challenger, counts.both),
        (champion, counts.champion - counts.both),
        (challenger, counts.challenger - counts.both),
        (0, counts.rows - counts.champion - counts.challenger + counts.both),
    )
    total = counts.rows + _CELL_PRIOR * len(cells)
    moments = (sum(value**power * (count + _CELL_PRIOR) for value, count in cells) / total for power in (1, 2))
    mean, square = moments
    return square - mean**2
