"""Quality criterion: what do the two variants' predictions cost, on the same labeled rows? Pure.

The metric "loss" is tested by asymptotic confidence sequences, "accuracy" by betting, which is exact at any number of
rows. Up to clipped_differences.MOST_ROWS rows, a bet on clipped losses shows harm that is too clear to wait for more.

A sequence takes the variance that the hypothesis under test predicts where the observed one is smaller. To advance is
to reject "worse", under which the champion's probabilities hold; to abort is to reject "not worse", under which the
challenger's do. The challenger's are themselves on trial: they count as ``sharpest_n`` rows beside those observed.
"""

from __future__ import annotations

import math

from deployments.analysis.criteria import CriterionResult
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.mean_bounds import mean_bounds
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.sequential_tests import log_wealth
from deployments.rollout_policy import RolloutPolicy

MIN_EFFECTIVE_ROWS = 30
"""Below it the standard deviation is too uncertain for the asymptotic sequence, regardless of the policy."""


def compare_quality(evidence: RolloutEvidence, policy: RolloutPolicy) -> CriterionResult:
    """Is the challenger's mean cost above the champion's; is it below (1 + margin) times the champion's?

    A regression is the first without the second.
    """
    total = evidence.total
    paired, costs = total.paired, format_costs(total.paired, policy)
    if policy.metric == "accuracy":
        worse, within, figures = _compare_mistakes(paired, policy)
    else:
        worse, within, figures = _compare_means(total, policy)
    clearly_worse, early_figures = _bet_on_clipped(total, policy)
    regression = f"the challenger is worse: {costs}, and not shown to be within the margin of {policy.margin:.1%}"
    enough = _has_enough_rows(paired, policy)
    if not enough:
        missing = f"{paired.n} labeled rows count as {paired.effective_n:.0f} independent rows, too few to compare"
    else:
        missing = f"{costs} do not yet show that it is within the margin of {policy.margin:.1%}"
    return CriterionResult(
        regression=regression if clearly_worse or (enough and worse and not within) else "",
        missing_evidence="" if enough and within else missing,
        figures=figures | early_figures,
    )


def format_costs(paired: PairedMoments, policy: RolloutPolicy) -> str:
    """Mean costs of both variants, for people to read."""
    champion, challenger = paired.champion, paired.challenger
    if policy.metric == "accuracy":
        return f"accuracy {1.0 - challenger:.2%} against {1.0 - champion:.2%} on {paired.n} labeled rows"
    return f"loss {challenger:.4f} against {champion:.4f} on {paired.n} labeled rows"


def difference_bounds(paired: PairedMoments, policy: RolloutPolicy) -> tuple[float, float]:
    """Confidence bounds on the challenger's mean cost less the champion's, each with error probability alpha / 2.

    For accuracy, by betting against every mean: the means against which no bet wins are between the bounds.
    """
    excess, half = paired.excess(0.0), policy.alpha / 2.0
    if policy.metric != "accuracy":
        return mean_bounds(excess, half, policy.sharpest_n)
    _, champion, challenger = _mistake_counts(paired)
    cells = [(1.0, challenger), (-1.0, champion), (0.0, max(paired.n - champion - challenger, 0.0))]
    scaled = [(value, count / excess.design_effect) for value, count in cells]
    return _betting_bound(scaled, half), -_betting_bound([(-value, count) for value, count in scaled], half)


def _betting_bound(cells: list[tuple[float, float]], alpha: float) -> float:
    """The largest number, to some 1e-6, that the mean of these values in [-1, 1] is shown to exceed."""
    low, high = -1.0, 1.0
    for _ in range(21):
        middle = (low + high) / 2.0
        # Halving keeps every value at -1 or above for any mean; the larger the mean, the smaller the wealth.
        wealth = log_wealth([((value - middle) / 2.0, count) for value, count in cells])
        low, high = (middle, high) if wealth >= math.log(1.0 / alpha) else (low, middle)
    return low


def _has_enough_rows(paired: PairedMoments, policy: RolloutPolicy) -> bool:
    """Whether the tests are valid: they are asymptotic in the number of keys, except for bets on independent rows."""
    exact = policy.metric == "accuracy" and not paired.cluster_moments.pairs
    return exact or paired.effective_n >= MIN_EFFECTIVE_ROWS


def _compare_means(total: ComparisonEvidence, policy: RolloutPolicy) -> tuple[bool, bool, dict[str, float]]:
    """Whether the challenger is shown to be worse, whether within the margin, and the bounds that show it."""
    paired, predicted, rows = total.paired, total.predicted, policy.sharpest_n
    difference, excess = paired.excess(0.0), paired.excess(policy.margin)
    pooled = (difference.m2 + rows * predicted.by_challenger.excess(0.0).variance) / (difference.n + rows)
    lower, _ = mean_bounds(difference, policy.test_alpha("quality"), rows, pooled)
    _, upper = mean_bounds(excess, policy.alpha, rows, predicted.by_champion.excess(policy.margin).variance)
    worse = lower > 0.0 and paired.effective_n >= policy.min_pairs
    return worse, upper <= 0.0, {"difference_lower": lower, "excess_upper": upper}


def _bet_on_clipped(total: ComparisonEvidence, policy: RolloutPolicy) -> tuple[bool, dict[str, float]]:
    """Whether the clipped losses of the first rows show that the challenger is worse; exact, for independent rows."""
    alpha = policy.test_alpha("early_quality")
    if not alpha or not total.early.values or total.paired.cluster_moments.pairs:
        return False, {}
    log_e = log_wealth((difference, 1.0) for difference in total.early.values)
    return log_e >= math.log(1.0 / alpha), {"log_e_worse": log_e}


def _compare_mistakes(paired: PairedMoments, policy: RolloutPolicy) -> tuple[bool, bool, dict[str, float]]:
    """As _compare_means, by bets on the four ways in which two variants can be right or wrong about a row."""
    both, champion, challenger = _mistake_counts(paired)
    difference, excess = paired.excess(0.0).design_effect, paired.excess(policy.margin).design_effect
    losing = [(1.0, challenger / difference), (-1.0, champion / difference)]
    sparing = [(-1.0, challenger / excess), (1.0 + policy.margin, champion / excess), (policy.margin, both / excess)]
    figures = {"log_e_worse": log_wealth(losing), "log_e_within": log_wealth(sparing)}
    worse = figures["log_e_worse"] >= math.log(1.0 / policy.test_alpha("quality"))
    return worse, figures["log_e_within"] >= math.log(1.0 / policy.alpha), figures


def _mistake_counts(paired: PairedMoments) -> tuple[float, float, float]:
    """Rows that both variants got wrong, that only the champion did, and that only the challenger did."""
    both = max(paired.comoment + paired.n * paired.champion * paired.challenger, 0.0)
    champion, challenger = (max(paired.n * mean - both, 0.0) for mean in (paired.champion, paired.challenger))
    return both, champion, challenger
