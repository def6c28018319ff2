"""Quality by loss and by mistakes: e-values with mean one at the border of their null, bounds where bets pay off."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from cluster.row_losses import row_loss
from deployments.analysis.clipped_differences import MOST_ROWS, ClippedDifferences
from deployments.analysis.criteria import CriterionResult
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.paired_moments import ClusterMoments, PairedMoments
from deployments.analysis.predicted_moments import PredictedMoments
from deployments.analysis.quality_test import compare_quality, difference_bounds
from deployments.analysis.sequential_tests import log_wealth
from deployments.rollout_policy import RolloutPolicy
from tests.factories.deployments.tasks import BINARY

ACCURACY = RolloutPolicy(metric="accuracy", margin=0.5, alpha=0.05)
LOSS = RolloutPolicy(min_labeled=50, margin=0.05)


def mistakes(both: int, champion: int, challenger: int, neither: int) -> PairedMoments:
    """Rows that both variants got wrong, only the champion, only the challenger, and neither."""
    counts = (both, champion, challenger, neither)
    wrong = np.repeat(np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]), counts, axis=1)
    return PairedMoments.from_losses(*wrong)


def compare(paired: PairedMoments, policy: RolloutPolicy) -> CriterionResult:
    return compare_quality(RolloutEvidence(by_share={0.5: ComparisonEvidence(paired=paired)}), policy)


def outcomes(rows: int) -> Iterator[tuple[int, int, int, int]]:
    for both in range(rows + 1):
        for champion in range(rows + 1 - both):
            for challenger in range(rows + 1 - both - champion):
                yield both, champion, challenger, rows - both - champion - challenger


@pytest.mark.parametrize(
    ("figure", "chances"),
    [
        # Both variants are wrong equally often.
        ("log_e_worse", (0.1, 0.2, 0.2, 0.5)),
        # The challenger is wrong half as often again: 0.3 against 0.2.
        ("log_e_within", (0.1, 0.1, 0.2, 0.6)),
    ],
)
def test_log_e_of_mistakes_at_the_border_of_the_null_has_mean_one(figure: str, chances: tuple[float, ...]) -> None:
    rows = 5
    mean = sum(
        stats.multinomial.pmf(counts, rows, chances) * math.exp(compare(mistakes(*counts), ACCURACY).figures[figure])
        for counts in outcomes(rows)
    )
    assert mean == pytest.approx(1.0, rel=1e-9)


def test_difference_bounds_of_mistakes_are_where_the_bets_reach_their_level() -> None:
    low, high = difference_bounds(mistakes(10, 5, 20, 65), ACCURACY)
    assert -1.0 < low < 0.15 < high < 1.0

    def wealth(mean: float, side: float) -> float:
        """Of a bet that the mean of 20 rows of 1, 5 of -1 and 75 of 0 is above ``mean``, or below for side -1."""
        rows = ((1.0, 20.0), (-1.0, 5.0), (0.0, 75.0))
        return log_wealth([(side * (value - mean) / 2.0, count) for value, count in rows])

    level = math.log(2.0 / 0.05)
    assert wealth(low - 1e-5, 1.0) > level > wealth(low + 1e-5, 1.0)
    assert wealth(high + 1e-5, -1.0) > level > wealth(high - 1e-5, -1.0)


def test_difference_bounds_of_swapped_variants_are_mirrored() -> None:
    low, high = difference_bounds(mistakes(10, 5, 20, 65), ACCURACY)
    assert difference_bounds(mistakes(10, 20, 5, 65), ACCURACY) == pytest.approx((-high, -low))


def test_difference_bounds_without_rows_exclude_nothing() -> None:
    assert difference_bounds(PairedMoments(), ACCURACY) == pytest.approx((-1.0, 1.0), abs=1e-5)
    assert difference_bounds(PairedMoments(), LOSS) == (-math.inf, math.inf)


@pytest.mark.parametrize(("rows", "worse"), [(49, False), (50, True)])
def test_compare_quality_by_loss_reports_a_regression_from_the_minimum_of_rows(rows: int, worse: bool) -> None:
    # The difference is 1 in each row: without variance, the bound is the difference itself.
    result = compare(PairedMoments.from_losses(np.ones(rows), np.full(rows, 2.0)), LOSS)
    assert (bool(result.regression), result.figures["difference_lower"]) == (worse, 1.0)


def test_compare_quality_by_loss_of_equal_variants_reports_no_regression() -> None:
    losses = np.tile([0.5, 1.5], 1_000)
    result = compare(PairedMoments.from_losses(losses, losses[::-1].copy()), LOSS)
    assert (result.regression, result.figures["difference_lower"] < 0.0) == ("", True)


def compare_early(values: tuple[float, ...], pairs: float = 0.0, policy: RolloutPolicy = LOSS) -> CriterionResult:
    paired = PairedMoments(n=len(values), cluster_moments=ClusterMoments(pairs=pairs))
    step = ComparisonEvidence(paired=paired, early=ClippedDifferences(n=len(values), values=values))
    return compare_quality(RolloutEvidence(by_share={0.5: step}), policy)


def test_log_e_of_clipped_losses_at_the_border_of_the_null_has_mean_one_at_every_row() -> None:
    # Equal mean clipped losses: 1 with probability 0.2, -0.5 with 0.4. All sequences of up to five rows.
    values, chances = (1.0, -0.5, 0.0), (0.2, 0.4, 0.4)
    for rows in range(1, 6):
        mean = 0.0
        for counts in ((a, b, rows - a - b) for a in range(rows + 1) for b in range(rows + 1 - a)):
            differences = tuple(np.repeat(values, counts).tolist())
            log_e = compare_early(differences).figures["log_e_worse"]
            mean += stats.multinomial.pmf(counts, rows, chances) * math.exp(log_e)
        assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("rows", "worse"), [(12, False), (13, True)])
def test_compare_quality_by_clipped_losses_aborts_below_the_minimum_of_rows(rows: int, worse: bool) -> None:
    # Each row costs the challenger the whole clip more: a bet of 0.95 multiplies by 1.95.
    result = compare_early((1.0,) * rows)
    wealth = np.mean([(1.0 + bet) ** rows for bet in np.geomspace(0.005, 0.95, 32)])
    assert result.figures["log_e_worse"] == pytest.approx(math.log(wealth))
    assert (bool(result.regression), wealth >= 200.0) == (worse, worse)


def test_compare_quality_by_clipped_losses_needs_independent_rows_and_a_part_of_alpha() -> None:
    values = (1.0,) * 30
    assert compare_early(values).regression
    assert not compare_early(values, pairs=2.0).regression
    assert not compare_early(values, policy=LOSS.model_copy(update={"alpha_parts": "equal"})).regression


def compare_scores(champion: np.ndarray, challenger: np.ndarray, labels: np.ndarray) -> CriterionResult:
    losses = row_loss(BINARY, champion, labels), row_loss(BINARY, challenger, labels)
    step = ComparisonEvidence(
        paired=PairedMoments.from_losses(*losses),
        predicted=PredictedMoments.from_scores(BINARY, champion, challenger, "loss"),
        early=ClippedDifferences.from_losses(BINARY, *losses, "loss"),
    )
    return compare_quality(RolloutEvidence(by_share={0.5: step}), LOSS)


def test_compare_quality_without_a_positive_knows_what_positives_would_cost() -> None:
    rows = 100
    champion, challenger, none = np.full(rows, 0.01), np.full(rows, 0.002), np.zeros(rows)
    advancing, aborting = compare_scores(champion, challenger, none), compare_scores(challenger, champion, none)
    # By the negatives alone the lower score is better, in every row by the same amount: an observed variance of 0.
    assert (bool(advancing.missing_evidence), advancing.figures["excess_upper"] > 0.0) == (True, True)
    assert (aborting.regression, aborting.figures["difference_lower"] < 0.0) == ("", True)
    blind = compare(
        PairedMoments.from_losses(row_loss(BINARY, champion, none), row_loss(BINARY, challenger, none)), LOSS
    )
    assert (blind.missing_evidence, blind.figures["excess_upper"] < 0.0) == ("", True)


def test_compare_quality_at_many_rows_believes_what_it_observed() -> None:
    # The challenger expects ten times as many positives as there are; its own variance fades as rows contradict it.
    chance = np.random.default_rng(0)
    labels = (chance.random(4_000) < 0.01).astype(float)
    champion, challenger = np.full(4_000, 0.01), np.full(4_000, 0.1)
    assert not compare_scores(champion[:100], challenger[:100], labels[:100]).regression
    assert compare_scores(champion, challenger, labels).regression


def skewed_scores(chance: np.random.Generator, rows: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with some 1% positives, and scores of two variants that know the truth; one of them less ``shift``."""
    truth = chance.normal(-5.0, 1.0, rows)
    labels = (chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
    known = truth + chance.normal(0.0, 0.3, (2, rows)) - np.array([[0.0], [shift]])
    sound, shifted = 1.0 / (1.0 + np.exp(-known))
    return sound, shifted, labels


def looks(
    scores: tuple[np.ndarray, np.ndarray, np.ndarray], step: int, policy: RolloutPolicy
) -> Iterator[CriterionResult]:
    total, (champion, challenger, labels) = ComparisonEvidence(), scores
    losses = row_loss(BINARY, champion, labels), row_loss(BINARY, challenger, labels)
    for end in range(step, len(labels) + 1, step):
        rows = slice(end - step, end)
        total += ComparisonEvidence(
            paired=PairedMoments.from_losses(losses[0][rows], losses[1][rows]),
            predicted=PredictedMoments.from_scores(BINARY, champion[rows], challenger[rows], "loss"),
            early=ClippedDifferences.from_losses(BINARY, losses[0][rows], losses[1][rows], "loss"),
        )
        yield compare_quality(RolloutEvidence(by_share={0.5: total}), policy)


@pytest.mark.parametrize(("worse", "margin"), [("challenger", 0.04), ("champion", 0.0)])
def test_compare_quality_with_rare_positives_keeps_alpha(worse: str, margin: float) -> None:
    # The variant that is shifted costs 5% more, all of it in positives. With observed variances alone, two thirds of
    # the shifted challengers advance, and as many sound ones abort for a shifted champion.
    policy, wrong, rollouts = LOSS.model_copy(update={"margin": margin}), 0, 100
    for seed in range(rollouts):
        sound, shifted, labels = skewed_scores(np.random.default_rng(seed), 1_000, 0.85)
        pair = (sound, shifted, labels) if worse == "challenger" else (shifted, sound, labels)
        results = looks(pair, 50, policy)
        ends = (not r.missing_evidence if worse == "challenger" else bool(r.regression) for r in results)
        wrong += any(ends)
    assert wrong <= stats.binom.ppf(0.999, rollouts, policy.alpha if worse == "challenger" else 0.03)


@pytest.mark.parametrize(("spread", "bound"), [(0.3, 0.03), (0.0, 0.0)])
def test_compare_quality_of_equal_and_better_challengers_rarely_aborts(spread: float, bound: float) -> None:
    policy, rollouts, aborted = LOSS.model_copy(update={"margin": 0.0}), 80, 0
    for seed in range(rollouts):
        chance = np.random.default_rng(seed)
        truth = chance.normal(-1.0, 1.0, 1_000)
        labels = (chance.random(1_000) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
        known = truth + chance.normal(0.0, 1.0, (2, 1_000)) * np.array([[0.3], [spread]])
        results = looks((*(1.0 / (1.0 + np.exp(-known))), labels), 40, policy)  # type: ignore[arg-type]
        aborted += any(bool(result.regression) for result in results)
    assert aborted <= stats.binom.ppf(0.999, rollouts, bound)


def test_early_rows_are_those_before_the_sequence_may_abort() -> None:
    assert LOSS.min_pairs == MOST_ROWS
