"""Several challengers at once: the probability of an error about any of them is bounded over all looks."""

from scipy import stats

from deployments.rollout_policy import RolloutPolicy
from tests.factories.deployments.several import Simulation

EQUAL = dict.fromkeys(("1", "2", "3", "4"), 0.0)
# Whoever is undecided after 30 looks at a step is dropped.
POLICY = RolloutPolicy(steps=(0.6, 1.0), margin=0.08, deadline_s=30.0)
AA = POLICY.model_copy(update={"margin": 0.0, "error_margin": 0.0})
ROLLOUTS = 100


def at_most(rollouts: int) -> int:
    """Events that a probability of alpha exceeds in one of a thousand experiments."""
    return int(stats.binom.ppf(0.999, rollouts, POLICY.alpha))


def test_of_three_equal_challengers_any_is_seldom_dropped() -> None:
    # Without margins nothing ends a trial but a wrong verdict.
    played = [Simulation(seed, EQUAL, AA) for seed in range(ROLLOUTS)]
    for one in played:
        one.run(looks=12, requests=400)
    assert sum(bool(one.dropped) for one in played) <= at_most(ROLLOUTS)


def test_the_bad_one_of_three_is_dropped_alone_and_the_best_promoted() -> None:
    # Version 4 knows more than the champion does, version 2 as much, version 3 is plainly worse.
    played = [Simulation(seed, {"1": 0.5, "2": 0.5, "3": 2.0, "4": 0.0}, POLICY) for seed in range(20)]
    promoted = []
    for one in played:
        state = one.run(looks=80, requests=400)
        assert one.dropped[0] == "3"
        promoted += state.challengers if state.status == "promoted" else ()
    assert promoted.count("4") >= 19
    actions = [[decision.action for decision in one.decisions if decision.action != "hold"] for one in played]
    assert ["drop", "advance", "advance", "promote"] in actions


def test_where_all_are_worse_all_are_dropped_and_the_champion_stays() -> None:
    for seed in range(5):
        one = Simulation(seed, {"1": 0.0, "2": 2.0, "3": 3.0, "4": 2.5}, POLICY)
        assert one.run(looks=30, requests=400).status == "aborted"
        assert sorted(one.dropped) == ["2", "3", "4"]


def test_equal_ones_are_chosen_among_by_estimate_and_what_is_stated_holds() -> None:
    """The limits of the difference between the best and the next must hold the true one, which is nought."""
    chosen, wrong = [], 0
    for seed in range(30):
        one = Simulation(seed, EQUAL | {"1": 0.3}, POLICY)
        one.run(looks=30, requests=400)
        for decision in one.decisions:
            if "best_less_next_upper" in decision.evidence:
                chosen += decision.challengers
                limits = [decision.evidence[f"best_less_next_{end}"] for end in ("lower", "upper")]
                wrong += not limits[0] <= 0.0 <= limits[1]
                assert "not shown to be less: by estimate alone" in decision.reason or limits[1] < 0.0
    assert len(chosen) >= 25
    assert set(chosen) == {"2", "3", "4"}
    assert wrong <= at_most(30)
