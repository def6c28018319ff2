"""Differences between groups, against figures computed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cluster.errors import ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers.evaluation import fairness
from trainers.evaluation.fairness import FairnessPolicy

POLICY = FairnessPolicy(groups=("sex",), min_rows=4)
TABLE = pa.table({"sex": ["f"] * 8 + ["m"] * 4 + ["x"] * 3 + [None] * 2})
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1], float)
SCORES = np.array([0.9, 0.8, 0.7, 0.1, 0.6, 0.2, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_measure_binary_matches_hand_computed_rates() -> None:
    """f: 4 of 8 positive, 3 of 4 true, 1 of 4 false, 2 of 8 wrong; m: 2 of 4, 2 of 2, 0 of 2, none wrong."""
    (comparison,) = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, LABELS)
    assert comparison.by_group["f"] == {
        "rows": 8, "error": 0.25, "positive": 0.5, "base_rate": 0.5, "true_positive": 0.75, "false_positive": 0.25,
    }  # fmt: skip
    assert (comparison.parity_difference, comparison.odds_difference, comparison.error_difference) == (0.0, 0.25, 0.25)
    assert set(comparison.left_out) == {"x", "missing"}


def test_measure_uses_threshold() -> None:
    policy = POLICY.model_copy(update={"threshold": 0.85})
    (comparison,) = fairness.measure(policy, TASKS["binary"], TABLE, SCORES, LABELS)
    assert comparison.parity_difference == pytest.approx(0.5 - 0.125)


def test_odds_difference_without_both_classes_is_none() -> None:
    """A group without a positive label has no true positive rate: it is not a difference of 1."""
    labels = np.where(np.arange(17) < 8, LABELS, 0.0)
    (comparison,) = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, labels)
    assert comparison.odds_difference is None
    assert comparison.parity_difference == 0.0


def test_measure_regression_and_multiclass_compare_errors() -> None:
    labels = np.arange(17.0)
    off = labels + np.where(np.arange(17) < 8, 1.0, 3.0)
    (comparison,) = fairness.measure(POLICY, TASKS["regression"], TABLE, off, labels)
    assert comparison.error_difference == pytest.approx(2 / labels[:12].std())
    chosen = np.eye(3)[np.where(np.arange(17) < 8, 0, 1)]
    (comparison,) = fairness.measure(POLICY, TASKS["multiclass"], TABLE, chosen, np.zeros(17))
    assert comparison.error_difference == 1.0
    assert (comparison.parity_difference, comparison.odds_difference) == (None, None)


def test_check_fails_above_limit_or_unmeasurable() -> None:
    comparison = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, LABELS)
    assert list(fairness.check(POLICY, comparison)) == []
    policy = POLICY.model_copy(update={"max_parity_difference": 0.1, "max_odds_difference": 0.2})
    assert [(c.name, c.passed) for c in fairness.check(policy, comparison)] == [
        ("parity by sex", True),
        ("equalized odds by sex", False),
    ]
    single = fairness.measure(policy.model_copy(update={"min_rows": 8}), TASKS["binary"], TABLE, SCORES, LABELS)
    assert [c.passed for c in fairness.check(policy, single)] == [False, False]
    policy = policy.model_copy(update={"min_rows": 50})
    none = fairness.measure(policy, TASKS["binary"], TABLE, SCORES, LABELS)
    assert "0 groups of sex of min_rows=50 rows" in next(fairness.check(policy, none)).reason


def test_measure_without_large_group_has_no_difference() -> None:
    (comparison,) = fairness.measure(POLICY.model_copy(update={"min_rows": 50}), TASKS["binary"], TABLE, SCORES, LABELS)
    assert (comparison.by_group, comparison.error_difference) == ({}, None)


def test_live_limits_are_those_that_are_declared() -> None:
    declared = {"max_odds_difference": 0.2, "max_error_difference": 0.3, "threshold": 0.7}
    groups = {"sex": ("f", "m")}
    assert POLICY.model_copy(update=declared).live_limits(groups) == ()
    live = POLICY.model_copy(update={"live": True, **declared})
    limits = live.live_limits(groups)
    assert [(limit.rate, limit.max_difference) for limit in limits] == [
        ("true_positive", 0.2), ("false_positive", 0.2), ("error", 0.3),
    ]  # fmt: skip
    assert {(limit.column, limit.groups, limit.threshold, limit.min_rows) for limit in limits} == {
        ("sex", ("f", "m"), 0.7, 4)
    }
    assert live.live_limits({"sex": ("f",)}) == ()


def test_measure_unknown_column_raises() -> None:
    with raises(ProjectError, "project.unknown_gate_column", column="age"):
        fairness.measure(FairnessPolicy(groups=("age",)), TASKS["binary"], TABLE, SCORES, LABELS)


@pytest.mark.parametrize(
    ("limit", "largest"), [("max_parity_difference", 1), ("max_odds_difference", 1), ("max_error_difference", 10)]
)
def test_limit_may_be_zero_but_not_negative(limit: str, largest: float) -> None:
    for allowed in (0.0, largest):
        assert getattr(FairnessPolicy.model_validate({limit: allowed}), limit) == allowed
    with pytest.raises(ValidationError, match=limit):
        FairnessPolicy.model_validate({limit: -0.01})


def test_multiclass_error_is_that_of_the_likeliest_class() -> None:
    """Class 0 is likeliest in each row; group a has label 0 in three of four rows, group b in one of four."""
    labels = np.array([0, 0, 0, 1, 0, 1, 2, 2], float)
    scores = np.tile([0.5, 0.3, 0.2], (8, 1)) + np.linspace(0, 0.07, 8)[:, None]
    (comparison,) = fairness.measure(
        POLICY, TASKS["multiclass"], pa.table({"sex": ["a"] * 4 + ["b"] * 4}), scores, labels
    )
    assert {group: rates["error"] for group, rates in comparison.by_group.items()} == {"a": 0.25, "b": 0.75}
    assert (comparison.error_difference, comparison.odds_difference) == (0.5, None)
