"""Rollout policies: refusal of contradictions, and the JSON of the journal."""

import pytest

from cluster.errors import RolloutError
from deployments.freeze_windows import FreezeWindow
from deployments.rollout_policy import RolloutPolicy, Webhook
from tests.factories.errors import raises


@pytest.mark.parametrize("steps", [(), (0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (0.5, 0.5, 1.0)])
def test_policy_with_steps_that_do_not_rise_to_one_is_refused(steps: tuple[float, ...]) -> None:
    with raises(RolloutError, "rollout.steps_not_rising_to_one", steps=steps):
        RolloutPolicy(steps=steps)


def test_policy_with_contradictory_settings_is_refused() -> None:
    with raises(RolloutError, "rollout.gate_without_step", gates=(0.5,), steps=(0.1, 1.0)):
        RolloutPolicy(steps=(0.1, 1.0), gates=(0.5,))
    with raises(RolloutError, "rollout.latency_quantile_missing"):
        RolloutPolicy(latency_quantile=None, latency_to_advance=True)


def test_policy_survives_a_json_round_trip() -> None:
    hook = Webhook(url="https://ops.example/hook", moment="before", secret_env="SECRET")
    policy = RolloutPolicy(freezes=(FreezeWindow(start="fri 16:00", end="mon 08:00"),), webhooks=(hook,), gates=(0.5,))
    assert RolloutPolicy.model_validate_json(policy.model_dump_json()) == policy
