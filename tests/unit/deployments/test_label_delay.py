"""Settings of a rollout follow from the time that labels take, unless the policy gives them."""

from typing import Any

import pytest

from deployments.label_delay import follow_label_delay
from deployments.rollout_policy import DAY_S, RolloutPolicy

HOUR_S = 3600.0


def test_policy_without_a_known_delay_stays_as_it_is() -> None:
    policy = RolloutPolicy(margin=0.1)
    assert follow_label_delay(policy, None) is policy


def test_labels_that_arrive_within_a_day_are_waited_for_at_each_step() -> None:
    policy = follow_label_delay(RolloutPolicy(), 5 * HOUR_S)
    assert (policy.path, policy.deadline_s, policy.label_delay_s) == ("labels", 11 * HOUR_S, 5 * HOUR_S)
    assert (policy.bake_s, policy.label_wait_s, policy.latency_to_advance) == (0.0, 30 * DAY_S, False)


def test_labels_that_take_months_leave_the_steps_to_health() -> None:
    policy = follow_label_delay(RolloutPolicy(), 90 * DAY_S)
    assert (policy.path, policy.bake_s, policy.deadline_s) == ("health", HOUR_S, 7 * DAY_S)
    assert (policy.label_wait_s, policy.probation_limit_s) == (180 * DAY_S, 180 * DAY_S)
    assert policy.latency_to_advance
    assert not follow_label_delay(RolloutPolicy(latency_quantile=None), 90 * DAY_S).latency_to_advance


@pytest.mark.parametrize(
    ("given", "delay_s", "expected"),
    [
        ({"deadline_s": 600.0}, HOUR_S, {"path": "health", "deadline_s": 600.0, "bake_s": 300.0}),
        ({"deadline_s": 7 * DAY_S}, 3 * DAY_S, {"path": "labels", "deadline_s": 7 * DAY_S}),
        ({"path": "labels"}, 90 * DAY_S, {"path": "labels", "deadline_s": HOUR_S + 180 * DAY_S}),
        ({"path": "health", "bake_s": 5.0}, 60.0, {"path": "health", "bake_s": 5.0}),
        ({"label_delay_s": 60.0}, 90 * DAY_S, {"path": "labels", "label_delay_s": 60.0}),
        ({"label_wait_s": DAY_S}, 90 * DAY_S, {"label_wait_s": DAY_S}),
        ({"latency_to_advance": False}, 90 * DAY_S, {"latency_to_advance": False}),
        ({"probation_s": DAY_S}, 90 * DAY_S, {"probation_limit_s": DAY_S}),
    ],
)
def test_settings_that_the_policy_gives_stay(given: dict[str, Any], delay_s: float, expected: dict[str, Any]) -> None:
    policy = follow_label_delay(RolloutPolicy(**given), delay_s)
    assert {name: getattr(policy, name) for name in expected} == expected


def test_policy_that_has_followed_a_delay_survives_its_journal_and_follows_no_other() -> None:
    policy = follow_label_delay(RolloutPolicy(), 90 * DAY_S)
    read = RolloutPolicy.model_validate_json(policy.model_dump_json())
    assert follow_label_delay(read, 60.0) == policy
