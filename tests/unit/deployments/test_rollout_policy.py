"""Rollout policies: refusal of contradictions, and the JSON of the journal."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import RolloutError
from deployments.freeze_windows import FreezeWindow
from deployments.rollout_policy import RolloutPolicy, Test, Webhook
from features.disparity import DisparityLimit
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


def test_policy_in_json_keeps_the_name_of_the_first_release() -> None:
    fields = json.loads(RolloutPolicy(min_labeled=7).model_dump_json())
    assert (fields["min_labelled"], "min_labeled" in fields) == (7, False)
    assert RolloutPolicy.model_validate({"min_labelled": 7}).min_labeled == 7
    assert RolloutPolicy.model_validate({"min_labeled": 7}).min_labeled == 7


@pytest.mark.parametrize(
    ("name", "smallest", "refused"),
    [
        ("min_requests", 1, 0),
        ("min_labeled", 1, 0),
        ("margin", 0.0, -0.01),
        ("max_error_rate", 1e-6, 0.0),
        ("max_growth_mib", 1e-6, 0.0),
        ("latency_margin", 0.0, -0.01),
        ("alpha", 1e-6, 0.0),
        ("deadline_s", 1e-3, 0.0),
        ("poll_s", 1e-3, 0.0),
    ],
)
def test_policy_with_a_number_below_its_bound_is_refused(name: str, smallest: float, refused: float) -> None:
    assert getattr(RolloutPolicy.model_validate({name: smallest}), name) == smallest
    with pytest.raises(ValidationError):
        RolloutPolicy.model_validate({name: refused})


@pytest.mark.parametrize(("name", "largest", "refused"), [("alpha", 0.499, 0.5), ("max_error_rate", 0.999, 1.0)])
def test_policy_with_a_probability_beyond_its_bound_is_refused(name: str, largest: float, refused: float) -> None:
    assert RolloutPolicy.model_validate({name: largest})
    with pytest.raises(ValidationError):
        RolloutPolicy.model_validate({name: refused})


def test_divide_alpha_gives_each_challenger_an_equal_part() -> None:
    policy = RolloutPolicy(alpha=0.06)
    assert policy.divide_alpha(1) is policy
    assert policy.divide_alpha(3).alpha == pytest.approx(0.02)


def test_loss_may_abort_from_fifty_rows_at_the_earliest() -> None:
    policies = [RolloutPolicy(min_labeled=n) for n in (1, 50, 80)]
    assert [(policy.min_pairs, policy.sharpest_n) for policy in policies] == [(50, 500), (50, 500), (80, 800)]
    assert RolloutPolicy(alpha_parts="equal").sharpest_n == 200


TESTS: tuple[Test, ...] = ("quality", "early_quality", "error_rate", "error_ratio", "latency", "split", "disparity")
LIMIT = DisparityLimit(column="sex", rate="positive", max_difference=0.1, groups=("f", "m"))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, (0.025, 0.005, 0.005, 0.005, 0.005, 0.005, 0.0)),
        ({"error_margin": None, "latency_quantile": None}, (0.03125, 0.00625, 0.00625, 0.0, 0.0, 0.00625, 0.0)),
        ({"metric": "accuracy"}, (0.25 / 9, 0.0, 0.05 / 9, 0.05 / 9, 0.05 / 9, 0.05 / 9, 0.0)),
        # The part of the split, which is a check of the evidence.
        ({"disparity": (LIMIT,)}, (0.025, 0.005, 0.005, 0.005, 0.005, 0.0, 0.005)),
        ({"alpha_parts": "equal"}, (0.01, 0.0, 0.01, 0.01, 0.01, 0.01, 0.0)),
        ({"alpha_parts": "equal", "error_margin": None}, (0.0125, 0.0, 0.0125, 0.0, 0.0125, 0.0125, 0.0)),
    ],
)
def test_test_alpha_spends_alpha_on_the_tests_in_use(changes: dict[str, Any], parts: tuple[float, ...]) -> None:
    policy = RolloutPolicy(alpha=0.05, **changes)
    assert [policy.test_alpha(test) for test in TESTS] == pytest.approx(parts)
    assert sum(policy.test_alpha(test) for test in TESTS) == pytest.approx(policy.alpha)


def test_checks_of_the_canary_and_of_the_probation_share_their_error_rate() -> None:
    policy = RolloutPolicy(path="health", validity_alpha=0.02)
    assert policy.divide_alpha(1).validity_alpha == pytest.approx(0.01)
    assert policy.divide_alpha(2).validity_alpha == pytest.approx(0.005)
    assert policy.divide_alpha(1).alpha == policy.alpha
