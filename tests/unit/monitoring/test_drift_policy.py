"""The drift policy accepts the bounds of its fields, and nothing beyond them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.errors import ProjectError
from monitoring.drift_policy import DAY_S, MONTH_S, WEIGHTS, DriftPolicy, LogAnalysisPolicy, alpha_per_window
from tests.factories.errors import raises


@pytest.mark.parametrize(
    ("kind", "field", "accepted", "refused"),
    [
        (DriftPolicy, "effect", (0.0, 1.0), (-0.1, 1.1)),
        (DriftPolicy, "alpha", (0.001, 0.999), (0.0, 1.0)),
        (DriftPolicy, "cooldown_s", (0.0,), (-0.5,)),
        (DriftPolicy, "budget", (0,), (-1,)),
        (DriftPolicy, "lateness_s", (0.0,), (-0.5,)),
        (DriftPolicy, "span", (1,), (0,)),
        (DriftPolicy, "window_s", (0.001,), (0.0,)),
        (LogAnalysisPolicy, "largest", (1, 100), (0, 101)),
        (LogAnalysisPolicy, "auc", (0.5, 1.0), (0.49, 1.01)),
        (LogAnalysisPolicy, "margin", (0.0,), (-0.1,)),
        (LogAnalysisPolicy, "alpha", (0.001, 0.999), (0.0, 1.0)),
        (LogAnalysisPolicy, "to_label", (0, 10_000), (-1, 10_001)),
    ],
)
def test_policy_field_accepts_its_bounds_and_refuses_values_beyond(kind, field, accepted, refused):
    for value in accepted:
        assert getattr(kind(**{field: value}), field) == value
    for value in refused:
        with pytest.raises(ValidationError, match=field):
            kind(**{field: value})


def test_action_on_an_alarm_depends_on_its_kind():
    policy = DriftPolicy(action="rollback", log_analysis=LogAnalysisPolicy(actions={"quality": "retrain"}))
    assert [policy.action_on(kind) for kind in ("drift", "quality", "labels")] == ["rollback", "retrain", "notify"]
    assert policy.model_copy(update={"log_analysis": None}).action_on("quality") == "notify"


def test_alpha_per_window_divides_the_month_evenly():
    assert alpha_per_window(1.0, DAY_S) == pytest.approx(1 / 30)
    assert alpha_per_window(2.0, 3600.0) == pytest.approx(2 / 720)
    assert alpha_per_window(99.0, DAY_S) == 0.5


SEGMENTS = LogAnalysisPolicy(segments=("shop",))


@pytest.mark.parametrize("window_s", [900.0, 3600.0, DAY_S, 7 * DAY_S])
@pytest.mark.parametrize("log_analysis", [None, LogAnalysisPolicy(), SEGMENTS])
@pytest.mark.parametrize("weights", [{}, {"quality": 0.0, "labels": 9.0}])
def test_levels_of_a_months_looks_sum_to_the_false_alarms(window_s, log_analysis, weights):
    policy = DriftPolicy(false_alarms=1.0, window_s=window_s, log_analysis=log_analysis, weights=weights)
    looks = MONTH_S / window_s
    assert sum(policy.level(kind) * looks for kind in WEIGHTS) == pytest.approx(1.0)
    assert sum(policy.monthly(kind) for kind in policy.kinds) == pytest.approx(1.0)


def test_false_alarms_are_divided_by_weight_among_the_kinds_that_are_on():
    policy = DriftPolicy(false_alarms=1.0, log_analysis=SEGMENTS)
    assert {kind: round(policy.monthly(kind), 6) for kind in policy.kinds} == {
        "drift": 0.4, "quality": 0.2, "segment": 0.1, "multivariate": 0.1, "labels": 0.1, "estimate": 0.1,
    }  # fmt: skip
    # Without segments and estimates their parts go to the others: 8 parts are left.
    policy = DriftPolicy(false_alarms=1.0, weights={"estimate": 0.0})
    assert policy.kinds == ("drift", "quality", "multivariate", "labels")
    assert policy.level("drift") == pytest.approx(4 / 8 / 30)
    assert (policy.level("segment"), policy.level("estimate"), policy.monthly("estimate")) == (0.0, 0.0, 0.0)
    assert DriftPolicy(false_alarms=1.0, log_analysis=None).level("drift") == pytest.approx(1 / 30)


def test_levels_without_a_budget_are_the_declared_ones():
    policy = DriftPolicy(alpha=0.02, log_analysis=LogAnalysisPolicy(alpha=0.003))
    assert (policy.level(), policy.level("quality"), policy.level("segment")) == (0.02, 0.003, 0.0)
    assert policy.monthly("drift") == pytest.approx(0.6)


def test_policy_refuses_drift_without_a_weight_and_negative_weights():
    with raises(ProjectError, "project.drift_without_weight"):
        DriftPolicy(weights={"drift": 0.0})
    with pytest.raises(ValidationError, match="weights"):
        DriftPolicy(weights={"labels": -1.0})
