"""The fairness criterion: its error rates over all looks, its power, and what counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deployments.analysis.disparity_test import compare_disparities
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence
from deployments.analysis.group_decisions import GroupCounts, GroupDecisions
from deployments.rollout_policy import RolloutPolicy
from features.disparity import DisparityLimit

GROUPS = ("f", "m")
LIMIT = DisparityLimit(column="sex", rate="positive", max_difference=0.1, groups=GROUPS, min_rows=100)
POLICY = RolloutPolicy(disparity=(LIMIT,))
Rates = tuple[float, float]


def evidence(groups: dict[str, GroupCounts], limit: DisparityLimit = LIMIT) -> RolloutEvidence:
    counts = GroupDecisions(by_limit={limit.name: groups})
    return RolloutEvidence(overall=ComparisonEvidence(groups=counts))


def looks(seed: int, champion: Rates, challenger: Rates, rows: int = 2_000, every: int = 100) -> list[RolloutEvidence]:
    """Evidence at every look: rows of both groups in turn, the same draw decides for both variants."""
    draws = np.random.default_rng(seed).random((rows, 2))
    hits = [(draws < np.array(rates)).cumsum(axis=0) for rates in (champion, challenger)]
    both = (draws < np.minimum(champion, challenger)).cumsum(axis=0)
    return [
        evidence(
            {
                name: GroupCounts(rows=n, champion=hits[0][n - 1, g], challenger=hits[1][n - 1, g], both=both[n - 1, g])
                for g, name in enumerate(GROUPS)
            }
        )
        for n in range(every, rows + 1, every)
    ]


@pytest.mark.parametrize("champion", [(0.3, 0.3), (0.5, 0.4), (0.02, 0.02)])
def test_challenger_at_the_limit_is_stopped_with_at_most_its_part_of_alpha(champion: Rates) -> None:
    challenger = (champion[0] + 0.1, champion[1])
    policy = POLICY.model_copy(update={"alpha": 0.4})
    runs, aborts = 150, 0
    for seed in range(runs):
        aborts += any(compare_disparities(look, policy).regression for look in looks(seed, champion, challenger))
    assert policy.test_alpha("disparity") == pytest.approx(0.04)
    assert aborts <= stats.binom.ppf(0.999, runs, policy.test_alpha("disparity"))


@pytest.mark.parametrize("champion", [(0.3, 0.3), (0.5, 0.4), (0.02, 0.02)])
def test_challenger_beyond_the_limit_is_shown_to_be_within_with_at_most_alpha(champion: Rates) -> None:
    challenger = (champion[0] + 0.1001, champion[1])
    policy = POLICY.model_copy(update={"alpha": 0.1})
    runs, advances = 150, 0
    for seed in range(runs):
        every_look = looks(seed, champion, challenger)
        advances += any(not compare_disparities(look, policy).missing_evidence for look in every_look)
    assert advances <= stats.binom.ppf(0.999, runs, policy.alpha)


def rows_until(verdict: str, champion: Rates, challenger: Rates) -> float:
    """Median rows of each group until a challenger is stopped ("regression"), or shown to be within its limit."""

    def first(seed: int) -> float:
        for look in looks(seed, champion, challenger, rows=4_000, every=50):
            result = compare_disparities(look, POLICY)
            if result.regression if verdict == "regression" else not result.missing_evidence:
                return float(look.total.groups.of(LIMIT.name)["f"].rows)
        return np.inf

    return float(np.median([first(seed) for seed in range(15)]))


def test_disparity_is_found_and_its_absence_is_shown() -> None:
    assert rows_until("regression", (0.3, 0.3), (0.55, 0.25)) < 800
    assert rows_until("within", (0.3, 0.3), (0.32, 0.31)) < 200
    # Close to the limit it takes far more rows.
    assert rows_until("within", (0.3, 0.3), (0.38, 0.3)) > 1_000


def test_fairer_challenger_advances_also_when_it_favors_the_other_group() -> None:
    """The champion's difference is 0.3 for one group, the challenger's 0.05 for the other: 0.35 apart, and better."""
    look = looks(1, (0.5, 0.2), (0.3, 0.35))[-1]
    result = compare_disparities(look, POLICY)
    assert (result.regression, result.missing_evidence) == ("", "")
    assert result.figures[f"challenger {LIMIT.name}"] < result.figures[f"champion {LIMIT.name}"]


def test_unfair_challenger_like_its_champion_is_no_regression() -> None:
    look = looks(1, (0.6, 0.2), (0.6, 0.2))[-1]
    result = compare_disparities(look, POLICY)
    assert (result.regression, result.missing_evidence) == ("", "")


def test_advance_needs_two_groups_with_enough_effective_rows() -> None:
    large = GroupCounts(rows=1_000, champion=300, challenger=300, both=300)
    few = GroupCounts(rows=99, champion=30, challenger=30, both=30)
    assert compare_disparities(evidence({"f": large, "m": few}), POLICY).missing_evidence
    assert not compare_disparities(evidence({"f": large, "m": large}), POLICY).missing_evidence
    # A thousand rows of ten persons.
    repeated = large.model_copy(update={"key_pairs": 1_000 * 99})
    assert repeated.effective_rows == pytest.approx(10)
    assert compare_disparities(evidence({"f": large, "m": repeated}), POLICY).missing_evidence


def test_health_does_not_wait_for_rates_that_need_labels() -> None:
    limit = LIMIT.model_copy(update={"rate": "true_positive"})
    by_labels, by_health = (RolloutPolicy(disparity=(limit,), path=path) for path in ("labels", "health"))
    assert compare_disparities(RolloutEvidence(), by_labels).missing_evidence
    assert not compare_disparities(RolloutEvidence(), by_health).missing_evidence
    unfair = {"f": GroupCounts(rows=900, champion=300, challenger=800, both=300),
              "m": GroupCounts(rows=900, champion=300, challenger=200, both=200)}  # fmt: skip
    assert compare_disparities(evidence(unfair, limit), by_health).regression


def test_decisions_merge_by_addition() -> None:
    one, other = ({"f": GroupCounts(rows=n, champion=1, challenger=2, both=1)} for n in (4, 6))
    total = GroupDecisions(by_limit={"x": one}) + GroupDecisions(by_limit={"x": other, "y": other})
    assert total.of("x") == {"f": GroupCounts(rows=10, champion=2, challenger=4, both=2)}
    assert total.of("y") == other
    assert total.of("z") == {}
