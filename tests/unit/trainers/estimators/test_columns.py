"""Columns that estimators take: the order of codes, and standardized numbers with an indicator for each code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.factories.effort import examples
from trainers.estimators.columns import dense_columns, order_codes, tree_columns
from trainers.input_spec import InputSpec

SIZE = 6


def _rank(codes: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return order_codes(codes[:, None], [SIZE], targets, weights)[0]


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_ranks_rise_with_the_mean_label_and_follow_codes_under_other_names(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 40))
    codes = data.draw(arrays.arrays(np.int64, rows, elements=st.integers(0, SIZE - 1)))
    labels = data.draw(arrays.arrays(np.float64, rows, elements=st.sampled_from([0.0, 1.0])))
    weights = data.draw(arrays.arrays(np.float64, rows, elements=st.floats(0.25, 4)))
    ranks = _rank(codes, labels[:, None], weights)
    assert sorted(ranks) == list(range(SIZE))
    mean = np.average(labels, weights=weights)
    of_code = [weights[codes == code] for code in range(SIZE)]
    means = np.array([
        (mean + (labels[codes == code] * each).sum()) / (1 + each.sum()) for code, each in enumerate(of_code)
    ])  # fmt: skip
    assert (np.diff(means[np.argsort(ranks)]) >= -1e-12).all()
    names = data.draw(st.permutations(range(SIZE)))
    renamed = _rank(np.array(names)[codes], labels[:, None], weights)
    assert np.allclose(means[np.argsort(ranks)], means[np.argsort(renamed[names])])


def test_code_without_rows_is_between_the_others() -> None:
    ranks = _rank(np.repeat([2, 3], 50), np.repeat([[0.0], [1.0]], 50, axis=0))
    assert ranks[2] == 0
    assert ranks[3] == SIZE - 1


def test_codes_of_several_classes_lie_along_the_change_of_their_shares() -> None:
    """The share of the last class rises with the code, that of the first falls."""
    shares = np.array([[9, 1, 0], [7, 2, 1], [5, 2, 3], [3, 2, 5], [1, 2, 7], [0, 1, 9]])
    codes = np.repeat(np.arange(SIZE), 10)
    targets = np.concatenate([np.repeat(np.eye(3), row, axis=0) for row in shares])
    ranks = _rank(codes, targets)
    assert list(ranks) in (list(range(SIZE)), list(range(SIZE))[::-1])


def test_columns_of_trees_are_finite_or_missing() -> None:
    numbers = np.array([[np.inf, np.nan], [-np.inf, 1.0]], np.float32)
    columns = tree_columns({"numbers": numbers, "codes": np.array([[1], [0]])}, [np.array([5, 3], np.float32)])
    assert columns.dtype == np.float32
    assert columns[:, 2].tolist() == [3.0, 5.0]
    assert not np.isinf(columns).any()
    assert np.isnan(columns).sum() == 1


def test_dense_columns_are_standardized_with_flags_and_one_column_for_each_code() -> None:
    inputs = InputSpec(
        numbers=("a", "b"),
        tensors=(),
        categories=("c",),
        cardinalities=(3,),
        mean=(1.0, 0.0),
        std=(2.0, 1.0),
        missing=(1,),
    )
    numbers = np.array([[3.0, np.nan], [np.nan, 100.0]], np.float32)
    columns = dense_columns({"numbers": numbers, "codes": np.array([[2], [0]])}, inputs)
    assert columns.tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], [0.0, 5.0, 0.0, 1.0, 0.0, 0.0]]
    assert columns.dtype == np.float64


@pytest.mark.parametrize("categories", [0, 1])
def test_dense_columns_of_one_kind_of_input(categories: int) -> None:
    numbers = 1 - categories
    inputs = InputSpec(
        numbers=("a",) * numbers,
        tensors=(),
        categories=("c",) * categories,
        cardinalities=(2,) * categories,
        mean=(0.0,) * numbers,
        std=(1.0,) * numbers,
        missing=(),
    )
    arrays = {"numbers": np.ones((3, numbers), np.float32), "codes": np.zeros((3, categories), np.int64)}
    assert dense_columns(arrays, inputs).shape == (3, 1 + categories)
