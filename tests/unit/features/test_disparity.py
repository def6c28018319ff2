"""Rates by group, against figures computed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.values import Task
from features.disparity import DisparityLimit, Rate, group_names, rate_hits

NAN = np.nan
GROUPS = ("f", "m")
BINARY = Task(kind="binary", label="late")
SCORES = np.array([0.9, 0.2, 0.6, 0.5, 0.1])
LABELS = np.array([1.0, 1.0, 0.0, NAN, 0.0])


@pytest.mark.parametrize(
    ("rate", "hits"),
    [
        ("positive", [1, 0, 1, 1, 0]),
        ("true_positive", [1, 0, NAN, NAN, NAN]),
        ("false_positive", [NAN, NAN, 1, NAN, 0]),
        ("error", [0, 1, 1, NAN, 0]),
    ],
)
def test_hits_of_a_binary_rate_are_of_its_rows_only(rate: Rate, hits: list[float]) -> None:
    limit = DisparityLimit(column="sex", rate=rate, max_difference=0.1, groups=GROUPS)
    np.testing.assert_array_equal(rate_hits(limit, BINARY, SCORES, LABELS), hits)


def test_hits_follow_the_threshold_and_the_likeliest_class() -> None:
    strict = DisparityLimit(column="sex", rate="positive", max_difference=0.1, groups=GROUPS, threshold=0.6)
    np.testing.assert_array_equal(rate_hits(strict, BINARY, SCORES, LABELS), [1, 0, 1, 0, 0])
    task = Task(kind="multiclass", label="kind", classes=("a", "b"))
    limit = DisparityLimit(column="sex", rate="error", max_difference=0.1, groups=GROUPS)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    np.testing.assert_array_equal(rate_hits(limit, task, scores, np.array([0.0, 0.0, NAN])), [0, 1, NAN])


def test_rows_without_a_value_are_a_group() -> None:
    assert group_names(pa.chunked_array([["f", None], ["m"]])).tolist() == ["f", "missing", "m"]
