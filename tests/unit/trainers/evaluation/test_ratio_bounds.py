"""Bounds of ratios hold at their error rate, and are 0 where the rows prove nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainers.evaluation.ratio_bounds import MeanEstimate, paired_lower_bound, ratio_lower_bound, unpaired_lower_bound

LOSSES = arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 100))


@given(LOSSES, LOSSES, st.floats(0.001, 0.5, exclude_max=True))
def test_bound_is_at_most_ratio(above: np.ndarray, below: np.ndarray, alpha: float) -> None:
    low = unpaired_lower_bound(above, below, alpha)
    assert low >= 0
    if low > 0:
        assert low * below.mean() <= above.mean() * (1 + 1e-9)


@given(LOSSES, LOSSES)
@example(np.full(4, 7e-153), np.array([0, 7e-153, 7e-153]))
def test_bound_with_more_confidence_is_lower(above: np.ndarray, below: np.ndarray) -> None:
    surer, bolder = (unpaired_lower_bound(above, below, alpha) for alpha in (0.01, 0.1))
    assert surer <= bolder * (1 + 1e-9)


def test_bound_of_one_row_is_zero() -> None:
    assert unpaired_lower_bound(np.array([5.0]), np.ones(10), 0.05) == 0
    assert paired_lower_bound(np.array([5.0]), np.array([1.0]), 0.05) == 0


def test_bound_without_variance_is_ratio() -> None:
    assert ratio_lower_bound(MeanEstimate(6.0, 0.0, 50), MeanEstimate(2.0, 0.0, 50), 0.05) == pytest.approx(3.0)


@pytest.mark.parametrize("pairs", [False, True])
def test_bound_exceeds_true_ratio_at_error_rate(pairs: bool) -> None:
    """True ratio 2, one-sided error 0.1, 400 repetitions of 200 skewed rows."""
    random, missed, lows = np.random.default_rng(0), 0, []
    for _ in range(400):
        below = random.exponential(size=200)
        above = 2 * below * random.uniform(0.5, 1.5, 200) if pairs else 2 * random.exponential(size=200)
        lows.append((paired_lower_bound if pairs else unpaired_lower_bound)(above, below, 0.1))
        missed += lows[-1] > 2
    assert 0.05 < missed / 400 < 0.16
    assert np.median(lows) > (1.9 if pairs else 1.7)


def test_paired_bound_of_proportional_rows_is_their_ratio() -> None:
    """The covariance cancels all variance; without it the bound is lower."""
    below = np.array([1.0, 2.0, 3.0])
    assert paired_lower_bound(2 * below, below, 0.05) == pytest.approx(2.0, abs=1e-6)
    assert unpaired_lower_bound(2 * below, below, 0.05) < 1.0
