"""Quality by loss and by mistakes: e-values with mean one at the border of their null, bounds where bets pay off."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from deployments.analysis.criteria import CriterionResult
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.quality_test import compare_quality, difference_bounds
from deployments.analysis.sequential_tests import log_wealth
from deployments.rollout_policy import RolloutPolicy

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
