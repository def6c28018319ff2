"""Simulated rollouts of several challengers: the probability of a wrong verdict on any of them is bounded."""

import pytest
from scipy import stats

from deployments.rollout_policy import RolloutPolicy
from tests.factories.deployments.rollout_simulation import RolloutSimulation

EQUAL = dict.fromkeys(("1", "2", "3", "4"), 0.0)
# Challengers that are undecided after 30 passes at a step are dropped.
POLICY = RolloutPolicy(steps=(0.6, 1.0), margin=0.08, deadline_s=30.0)
AA = POLICY.model_copy(update={"margin": 0.0, "error_margin": 0.0})
ROLLOUTS = 100


def at_most(rollouts: int) -> int:
    """Events that a probability of alpha exceeds in one of a thousand experiments."""
    return int(stats.binom.ppf(0.999, rollouts, POLICY.alpha))


@pytest.mark.long
def test_rollout_of_equal_challengers_keeps_alpha() -> None:
    # Without margins only a wrong verdict ends a trial.
    simulations = [RolloutSimulation(seed, EQUAL, AA) for seed in range(ROLLOUTS)]
    for one in simulations:
        one.run(passes=12, requests=400)
    assert sum(bool(one.dropped) for one in simulations) <= at_most(ROLLOUTS)


@pytest.mark.long
def test_rollout_with_a_worse_challenger_drops_it_and_promotes_the_best() -> None:
    # Version 4 is better than the champion, version 2 equal, version 3 much worse.
    simulations = [RolloutSimulation(seed, {"1": 0.5, "2": 0.5, "3": 2.0, "4": 0.0}, POLICY) for seed in range(20)]
    promoted = []
    for one in simulations:
        state = one.run(passes=80, requests=400)
        assert one.dropped[0] == "3"
        promoted += state.challengers if state.status == "promoted" else ()
    assert promoted.count("4") >= 19
    actions = [[decision.action for decision in one.decisions if decision.action != "hold"] for one in simulations]
    assert ["drop", "advance", "advance", "promote"] in actions


@pytest.mark.long
def test_rollout_with_all_challengers_worse_keeps_the_champion() -> None:
    for seed in range(5):
        one = RolloutSimulation(seed, {"1": 0.0, "2": 2.0, "3": 3.0, "4": 2.5}, POLICY)
        assert one.run(passes=30, requests=400).status == "aborted"
        assert sorted(one.dropped) == ["2", "3", "4"]


@pytest.mark.long
def test_choice_among_equal_challengers_states_valid_limits() -> None:
    """The limits of the difference between the best and the next contain the true difference, 0."""
    chosen, wrong = [], 0
    for seed in range(30):
        one = RolloutSimulation(seed, EQUAL | {"1": 0.3}, POLICY)
        one.run(passes=30, requests=400)
        for decision in one.decisions:
            if "best_less_next_upper" in decision.evidence:
                chosen += decision.challengers
                limits = [decision.evidence[f"best_less_next_{end}"] for end in ("lower", "upper")]
                wrong += not limits[0] <= 0.0 <= limits[1]
                assert "selected by point estimate" in decision.reason or limits[1] < 0.0
    assert len(chosen) >= 25
    assert set(chosen) == {"2", "3", "4"}
    assert wrong <= at_most(30)
