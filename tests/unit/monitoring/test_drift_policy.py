"""The drift policy accepts the bounds of its fields, and nothing beyond them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from monitoring.drift_policy import DAY_S, DriftPolicy, LogAnalysisPolicy, alpha_per_window


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
    assert DriftPolicy(alpha=0.02).level == 0.02
