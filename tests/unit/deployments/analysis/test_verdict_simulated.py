"""All tests of a verdict together, on simulated rollouts: the benchmark of verdicts with fewer repetitions."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.serving.simulated import SHARE, RolloutPlan, costs, noise_for, rollouts
from deployments.rollout_policy import RolloutPolicy

pytestmark = pytest.mark.long

POLICY = RolloutPolicy(steps=(SHARE, 1.0), margin=0.0, error_margin=0.0)


def test_judge_of_simulated_equal_variants_keeps_alpha() -> None:
    outcomes = [one.kind for one in rollouts(200, 0.0, RolloutPlan(15, 100, POLICY))]
    assert outcomes.count("abort") <= stats.binom.ppf(0.999, 200, POLICY.alpha)


@pytest.mark.parametrize(("points", "most_rows"), [(2.0, 2_500), (5.0, 800)])
def test_judge_of_a_simulated_worse_challenger_aborts_soon(points: float, most_rows: int) -> None:
    outcomes = list(rollouts(25, points, RolloutPlan(60, 100, POLICY)))
    assert [one.kind for one in outcomes].count("abort") >= 24
    assert np.median([one.rows for one in outcomes]) <= most_rows


def test_simulated_costs_differ_by_the_requested_points() -> None:
    champion, challenger = costs(np.random.default_rng(1), 400_000, noise_for(2.0), "accuracy").mean(axis=1)
    assert 100.0 * (challenger - champion) == pytest.approx(2.0, abs=0.3)
