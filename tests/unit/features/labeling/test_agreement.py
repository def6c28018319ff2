"""Agreement of labelers: published figures, scikit-learn, and the properties of a coefficient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from features.labeling.agreement import cohens_kappa, krippendorffs_alpha, measure_agreement
from tests.factories.effort import examples

X = np.nan
# Three coders, 15 units, four values: https://en.wikipedia.org/wiki/Krippendorff%27s_alpha
CODERS = np.array(
    [
        [X, X, X, X, X, 3, 4, 1, 2, 1, 1, 3, 3, X, 3],
        [1, X, 2, 1, 3, 3, 4, 3, X, X, X, X, X, X, X],
        [X, X, 2, 1, 3, 4, 4, X, 2, 1, 1, 3, 3, X, 4],
    ]
).T
CLASSES = arrays(np.float64, (20, 3), elements=st.sampled_from([0.0, 1.0, 2.0, np.nan]))


@pytest.mark.parametrize(("numeric", "alpha"), [(False, 0.691), (True, 0.811)])
def test_krippendorffs_alpha_of_a_published_table_is_as_published(numeric: bool, alpha: float) -> None:
    assert krippendorffs_alpha(CODERS, numeric=numeric) == pytest.approx(alpha, abs=5e-4)


@settings(max_examples=examples(200))
@given(arrays(np.float64, (25, 2), elements=st.sampled_from([0.0, 1.0, 2.0])))
def test_cohens_kappa_equals_scikit_learns(labels: np.ndarray) -> None:
    ours = cohens_kappa(*labels.T)
    if len(np.unique(labels)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(cohen_kappa_score(*labels.T))


@settings(max_examples=examples(200))
@given(CLASSES, st.permutations(range(3)))
def test_agreement_depends_neither_on_the_order_of_labelers_nor_on_names_of_classes(
    labels: np.ndarray, order: list[int]
) -> None:
    names = ("a", "b", "c")
    renamed = measure_agreement(5.0 - labels[:, order], names)
    plain = measure_agreement(labels, names)
    assert (renamed.rows, renamed.shared) == (plain.rows, plain.shared)
    assert renamed.percent == pytest.approx(plain.percent)
    assert renamed.value == pytest.approx(plain.value)
    assert plain.value is None or plain.value <= 1.0


def test_agreement_is_perfect_by_chance_or_undefined() -> None:
    alternating = np.tile([0.0, 1.0], 50)
    same = measure_agreement(np.stack([alternating, alternating], axis=1), ("a", "b"))
    assert (same.percent, same.coefficient, same.value) == (1.0, "Cohen's kappa", 1.0)
    unrelated = np.stack([alternating, np.repeat([0.0, 1.0], 50)], axis=1)
    assert measure_agreement(unrelated, ("a", "b")).value == 0.0
    constant = measure_agreement(np.zeros((5, 2)), ("a", "b"))
    assert (constant.percent, constant.value) == (1.0, None)
    alone = measure_agreement(np.array([[0.0, X], [X, 1.0], [X, X]]), ("a", "b"))
    assert (alone.rows, alone.shared, alone.percent, alone.value) == (2, 0, None, None)


def test_agreement_of_numbers_is_krippendorffs_alpha_even_for_two() -> None:
    numbers = np.array([[1.0, 1.1], [5.0, 5.2], [9.0, 8.9]])
    agreement = measure_agreement(numbers, ("a", "b"), numeric=True)
    assert (agreement.coefficient, agreement.percent) == ("Krippendorff's alpha", 0.0)
    assert agreement.value == pytest.approx(1.0, abs=0.01)
