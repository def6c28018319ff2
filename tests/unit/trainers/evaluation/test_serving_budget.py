"""Latency and size against the limits of a budget."""

from __future__ import annotations

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
