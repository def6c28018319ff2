"""Differences between groups, against figures computed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import ProjectError
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers.evaluation import fairness
from trainers.evaluation.fairness import FairnessPolicy

POLICY = FairnessPolicy(groups=("sex",), min_rows=4)
TABLE = pa.table({"sex": ["f"] * 8 + ["m"] * 4 + ["x"] * 3 + [None] * 2})
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1], float)
SCORES = np.array([0.9, 0.8, 0.7, 0.1, 0.6, 0.2, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_binary_groups_by_hand() -> None:
    """f: 4 of 8 positive, 3 of 4 true, 1 of 4 false, 2 of 8 wrong; m: 2 of 4, 2 of 2, 0 of 2, none wrong."""
    (found,) = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, LABELS)
    assert found.by_group["f"] == {
        "rows": 8, "error": 0.25, "positive": 0.5, "base_rate": 0.5, "true_positive": 0.75, "false_positive": 0.25,
    }  # fmt: skip
    assert (found.parity_difference, found.odds_difference, found.error_difference) == (0.0, 0.25, 0.25)
    assert set(found.left_out) == {"x", "missing"}


def test_the_threshold_decides_what_is_positive() -> None:
    policy = POLICY.model_copy(update={"threshold": 0.85})
    (found,) = fairness.measure(policy, TASKS["binary"], TABLE, SCORES, LABELS)
    assert found.parity_difference == pytest.approx(0.5 - 0.125)


def test_rates_need_both_classes() -> None:
    """A group without a positive label has no true positive rate: it is not a difference of 1."""
    labels = np.where(np.arange(17) < 8, LABELS, 0.0)
    (found,) = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, labels)
    assert found.odds_difference is None
    assert found.parity_difference == 0.0


def test_regression_and_classes_compare_errors() -> None:
    labels = np.arange(17.0)
    off = labels + np.where(np.arange(17) < 8, 1.0, 3.0)
    (found,) = fairness.measure(POLICY, TASKS["regression"], TABLE, off, labels)
    assert found.error_difference == pytest.approx(2 / labels[:12].std())
    chosen = np.eye(3)[np.where(np.arange(17) < 8, 0, 1)]
    (found,) = fairness.measure(POLICY, TASKS["multiclass"], TABLE, chosen, np.zeros(17))
    assert found.error_difference == 1.0
    assert (found.parity_difference, found.odds_difference) == (None, None)


def test_a_limit_fails_by_its_value_and_one_that_nobody_can_measure_fails_too() -> None:
    found = fairness.measure(POLICY, TASKS["binary"], TABLE, SCORES, LABELS)
    assert list(fairness.check(POLICY, found)) == []
    policy = POLICY.model_copy(update={"max_parity_difference": 0.1, "max_odds_difference": 0.2})
    assert [(c.name, c.passed) for c in fairness.check(policy, found)] == [
        ("parity by sex", True),
        ("equalized odds by sex", False),
    ]
    alone = fairness.measure(policy.model_copy(update={"min_rows": 8}), TASKS["binary"], TABLE, SCORES, LABELS)
    assert [c.passed for c in fairness.check(policy, alone)] == [False, False]
    policy = policy.model_copy(update={"min_rows": 50})
    none = fairness.measure(policy, TASKS["binary"], TABLE, SCORES, LABELS)
    assert "0 groups of sex of min_rows=50 rows" in next(fairness.check(policy, none)).reason


def test_no_group_is_large_enough() -> None:
    (found,) = fairness.measure(POLICY.model_copy(update={"min_rows": 50}), TASKS["binary"], TABLE, SCORES, LABELS)
    assert (found.by_group, found.error_difference) == ({}, None)


def test_an_unknown_column_is_named() -> None:
    with raises(ProjectError, "project.unknown_gate_column", column="age"):
        fairness.measure(FairnessPolicy(groups=("age",)), TASKS["binary"], TABLE, SCORES, LABELS)
