"""Frames become matrices, with any content."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.definitions import Column
from monitoring.samples.domain_classifier import DomainClassifier
from monitoring.samples.feature_matrix import build_matrices

COLUMNS = (
    Column(name="x", kind="number"),
    Column(name="c", kind="category"),
    Column(name="t", kind="timestamp"),
    Column(name="gone", kind="number"),
)


def test_numbers_stay_and_categories_rank_by_frequency():
    reference = pa.table({"x": [1, 2, None], "c": ["b", "a", "b"], "t": [0, 0, 0]})
    live = pa.table({"x": [0.5, np.inf], "c": ["new", None], "t": [0, 0]})
    before, after, names = build_matrices(reference, live, COLUMNS)
    assert names == ("x", "c")
    np.testing.assert_array_equal(before, [[1, 0], [2, 1], [np.nan, 0]])
    np.testing.assert_array_equal(after, [[0.5, 2], [np.inf, np.nan]])


def test_wrong_types_and_absent_columns_become_missing():
    reference = pa.table({"x": [1.0, 2.0], "c": ["a", "a"]})
    live = pa.table({"x": ["one", "two"], "gone": [[1], [2]]})
    before, after, names = build_matrices(reference, live, COLUMNS)
    assert names == ("x", "c", "gone")
    assert np.isnan(after).all()
    assert np.isnan(before[:, 2]).all()


def test_matrices_let_a_classifier_find_a_changed_category():
    rng = np.random.default_rng(0)
    frames = [
        pa.table({"x": rng.normal(size=400), "c": rng.choice(["a", "b", "c"], 400, p=odds).tolist()})
        for odds in ([0.6, 0.3, 0.1], [0.2, 0.3, 0.5])
    ]
    reference, live, names = build_matrices(*frames, COLUMNS)
    result = DomainClassifier(reference, live).test(names)
    assert result.ranked[0][0] == "c"
    assert result.p_value < 1e-6


def test_categories_that_are_lists_or_bytes_become_missing():
    reference = pa.table({"c": [["a"], ["b"]]})
    live = pa.table({"c": [b"a", b"b", b"c"]})
    before, after, _ = build_matrices(reference, live, COLUMNS[1:2])
    assert (before.shape, after.shape) == ((2, 1), (3, 1))
    assert np.isnan(before).all()
    assert np.isnan(after).all()
