"""Estimates by key, and their e-values: exact under the null, unchanged when rows of a key repeat."""

import math

import numpy as np
import pytest

from deployments.analysis.validity.contrasts import Estimate, difference, ranks, slope, squares_by_key

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def arms(values: np.ndarray, challenger: np.ndarray, shares: float | np.ndarray = 0.5) -> Estimate:
    rows = len(values)
    keys = np.arange(rows)
    return difference(values, challenger.astype(bool), np.broadcast_to(shares, rows), keys)


@pytest.mark.parametrize(("variance", "scale"), [(1.0, 0.5), (0.01, 0.05), (0.25, 1.0)])
def test_log_e_of_an_unbiased_estimate_has_mean_one(variance: float, scale: float) -> None:
    estimates = [Estimate(value=0.3 + math.sqrt(variance) * z, variance=variance) for z in NODES]
    e_values = np.exp([estimate.log_e(0.3, scale=scale) for estimate in estimates])
    assert e_values @ WEIGHTS / WEIGHTS.sum() == pytest.approx(1.0, rel=1e-3)


def test_log_e_counts_one_side_only_on_request() -> None:
    low = Estimate(value=0.0, variance=0.01)
    assert low.log_e(0.5, scale=0.5, side=-1) == low.log_e(0.5, scale=0.5) > 5.0
    assert low.log_e(0.5, scale=0.5, side=1) == Estimate().log_e(0.5, scale=0.5) == 0.0


def test_difference_within_shares_ignores_what_moves_both_variants() -> None:
    chance = np.random.default_rng(0)
    shares = np.repeat([0.1, 0.5], 2_000)
    challenger = chance.random(4_000) < shares
    # Everything changes at the second share, where the challenger has more rows.
    values = (chance.random(4_000) < np.where(shares == 0.5, 0.9, 0.1)).astype(float)
    assert abs(values[challenger].mean() - values[~challenger].mean()) > 0.2
    estimate = arms(values, challenger, shares)
    assert abs(estimate.value) < 4.0 * math.sqrt(estimate.variance)
    values[challenger] = 0.0
    assert arms(values, challenger, shares).log_e(scale=0.05) > 20.0


def test_difference_of_few_keys_or_rare_events_says_nothing() -> None:
    challenger = np.arange(2_000) % 20 == 0
    rare = (np.arange(2_000) % 500 == 0).astype(float)
    assert arms(rare, challenger) == Estimate()
    assert arms(np.arange(40) % 2.0, np.arange(40) < 29) == Estimate()
    assert arms(np.arange(400) % 2.0, np.arange(400) < 200) != Estimate()


def test_variance_of_repeated_rows_is_that_of_their_keys() -> None:
    chance = np.random.default_rng(1)
    values, challenger, keys = chance.random(200), np.arange(200) % 2 == 0, np.arange(200)
    once = difference(values, challenger, np.full(200, 0.5), keys)
    thrice = difference(*(np.repeat(column, 3) for column in (values, challenger, np.full(200, 0.5), keys)))
    assert (thrice.value, thrice.variance) == (pytest.approx(once.value), pytest.approx(once.variance))
    assert squares_by_key(np.ones(3), np.zeros(3, np.int64)) == 9.0


def test_slope_of_calibrated_labels_is_one_and_of_shuffled_ones_none() -> None:
    chance = np.random.default_rng(2)
    scores, keys = chance.random((4_000, 1)), np.arange(4_000)
    labels = (chance.random((4_000, 1)) < scores).astype(float)
    assert slope(labels, scores, keys, 0.5).value == pytest.approx(1.0, abs=0.1)
    shuffled = slope(chance.permutation(labels), scores, keys, 0.5)
    assert shuffled.value == pytest.approx(0.0, abs=0.1)
    assert shuffled.log_e(0.5, scale=0.5, side=-1) > 20.0
    # Labels without any variation have no slope, and that is evidence too.
    assert slope(np.zeros((100, 1)), scores[:100], keys[:100], 0.5).log_e(0.5, scale=0.5, side=-1) > 10.0


def test_ranks_share_the_mean_of_equal_values() -> None:
    assert ranks(np.array([3.0, 1e9, 3.0, -5.0])).tolist() == [0.5, 0.875, 0.5, 0.125]
