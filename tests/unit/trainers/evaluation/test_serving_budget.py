"""Latency and size against the limits of a budget."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainers.evaluation import serving_budget
from trainers.evaluation.serving_budget import Budget


def test_check_budget_compares_latency_and_size() -> None:
    latency = {"onnxruntime_us_1": 20.0, "onnxruntime_us_1024": 900.0}
    assert not list(serving_budget.check(Budget(), latency, 1 << 20))
    checks = list(serving_budget.check(Budget(max_us_1=30, max_us_1024=500, max_mib=2), latency, 1 << 20))
    assert [(c.name, c.value, c.passed) for c in checks] == [
        ("latency of 1", 20.0, True),
        ("latency of 1024", 900.0, False),
        ("size", 1.0, True),
    ]


@pytest.mark.parametrize("limit", ["max_us_1", "max_us_1024", "max_mib"])
def test_limit_of_zero_is_refused(limit: str) -> None:
    assert getattr(Budget.model_validate({limit: 1e-6}), limit) == 1e-6
    with pytest.raises(ValidationError, match=limit):
        Budget.model_validate({limit: 0.0})
