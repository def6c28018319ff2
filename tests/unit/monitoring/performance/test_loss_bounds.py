"""Bounds of late labels hold at every analysis."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitoring.performance.loss_bounds import (
    MIN_LABELS,
    MIN_WINDOWS,
    LabeledLoss,
    RateCount,
    bound_loss,
    is_worse,
    least_difference,
    log_e_difference,
    ordinary_loss,
)

ALPHA = 0.1


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rate", "loss"])
def test_bounds_after_every_batch_cover_the_truth(kind):
    missed, runs = 0, 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        losses = (rng.random(3_000) < 0.2).astype(float) if kind == "rate" else rng.exponential(0.2, 3_000)
        batches = (bound_loss(LabeledLoss.from_losses(losses[:n]), ALPHA) for n in range(100, 3_001, 100))
        missed += any(not bounds.low <= 0.2 <= bounds.high for bounds in batches)
    assert missed <= stats.binom.ppf(1 - 1e-4, runs, ALPHA)


@pytest.mark.long
def test_bounds_of_losses_hold_from_the_first_label_on():
    missed, runs = 0, 300
    for seed in range(runs):
        losses = np.random.default_rng(seed).exponential(0.2, 200)
        missed += any(is_worse(LabeledLoss.from_losses(losses[:n]), 0.2, 0.01) for n in range(1, 201))
    assert missed <= stats.binom.ppf(1 - 1e-4, runs, 0.01)


def test_few_losses_have_no_bounds():
    assert not is_worse(LabeledLoss.from_losses(np.array([1.06])), 0.8, 0.01, margin=0.2)
    assert bound_loss(LabeledLoss.from_losses(np.full(MIN_LABELS - 1, 8.0)), 0.01).low == -np.inf
    assert is_worse(LabeledLoss.from_losses(np.full(MIN_LABELS, 8.0)), 0.8, 0.01, margin=0.2)


def test_bounds_of_a_rate_are_the_roots_of_the_mixture():
    bounds = bound_loss(LabeledLoss.from_losses(np.repeat([0, 1], [70, 30])), 0.05)
    for p in (bounds.low, bounds.high):
        mixture = np.exp(stats.beta(31, 71).logpdf(p))
        # The mixture of the likelihood is 1 / (posterior density) under a flat prior.
        assert 1 / mixture == pytest.approx(1 / 0.05, rel=1e-6)
    assert bound_loss(LabeledLoss.from_losses(np.zeros(50)), 0.05).low == 0
    assert bound_loss(LabeledLoss.from_losses(np.ones(50)), 0.05).high == 1


def test_evidence_of_a_difference_is_the_least_product_of_the_mixtures():
    higher, lower = RateCount(60, 45), RateCount(40, 8)
    grid = np.linspace(1e-6, 1 - 1e-6, 2_001)
    mixtures = [-stats.beta(count.hits + 1, count.rows - count.hits + 1).logpdf(grid) for count in (higher, lower)]
    pairs = mixtures[0][:, None] + mixtures[1][None, :]
    allowed = pairs[np.subtract.outer(grid, grid) <= 0.25]
    assert log_e_difference(higher, lower, 0.25) == pytest.approx(allowed.min(), abs=1e-3)
    low = least_difference(higher, lower, 0.05)
    assert log_e_difference(higher, lower, low) == pytest.approx(-np.log(0.05), abs=1e-3)
    assert 0.1 < low < 0.55


@pytest.mark.parametrize("counts", [((9, 9), (9, 0)), ((1, 1), (1, 0)), ((5, 2), (5, 2)), ((5, 0), (5, 3))])
def test_difference_of_extreme_or_equal_rates_has_a_bound(counts):
    higher, lower = (RateCount(*count) for count in counts)
    low = least_difference(higher, lower, 0.05)
    assert 0 <= low <= max(0.0, higher.value - lower.value)
    assert (low > 0) is (counts[0] == (9, 9))


@pytest.mark.long
def test_bound_of_a_difference_holds_at_every_look():
    """Two rates of which one is small, their rows coming in turn, at the most difference that the null allows."""
    missed, runs, difference = 0, 300, 0.1
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        higher, lower = ((rng.random(500) < p).cumsum() for p in (0.02 + difference, 0.02))
        looks = (
            log_e_difference(RateCount(n, higher[n - 1]), RateCount(n, lower[n - 1]), difference)
            for n in range(10, 501, 10)
        )
        missed += any(log_e >= -np.log(ALPHA) for log_e in looks)
    assert missed <= stats.binom.ppf(1 - 1e-4, runs, ALPHA)


def test_is_worse_needs_evidence_and_has_it_at_a_known_label():
    rng = np.random.default_rng(7)
    losses = (rng.random(2_000) < 0.3).astype(float)
    first = next(n for n in range(1, 2_001) if is_worse(LabeledLoss.from_losses(losses[:n]), 0.2, 0.05))
    assert first == 254
    assert not is_worse(LabeledLoss.from_losses(losses), 0.2, 0.05, margin=0.8)
    assert not is_worse(LabeledLoss(), 0.2, 0.05)


def test_missing_labels_are_left_out_and_lower_the_share():
    loss = LabeledLoss.from_losses(np.array([0.0, np.nan, np.inf, 1.0]), rows=8)
    assert (loss.n, loss.mean, loss.share) == (2, 0.5, 0.25)


def test_loss_without_labels_has_no_bounds():
    assert LabeledLoss.from_losses(np.empty(0)) == LabeledLoss()
    none = LabeledLoss.from_losses(np.full(3, np.nan), rows=3)
    assert (none.rows, none.n, none.share) == (3, 0, 0.0)
    bounds = bound_loss(none, 0.05)
    assert (bounds.low, bounds.high) == (-np.inf, np.inf)


def test_loss_of_an_unknown_number_of_rows_has_share_zero():
    loss = LabeledLoss.from_losses(np.array([0.0, 1.0]))
    assert (loss.rows, loss.n, loss.share) == (0, 2, 0.0)


@pytest.mark.parametrize("n", [1, 7, 60])
def test_bounds_of_a_rate_miss_it_at_most_as_often_as_alpha_by_summation(n):
    for p in (0.03, 0.3, 0.5, 0.9):
        missed = mixture = 0.0
        for hits in range(n + 1):
            bounds = bound_loss(LabeledLoss.from_losses(np.repeat([0, 1], [n - hits, hits])), ALPHA)
            # The mixture of the likelihood over that at p: an e-value, with mean 1 at p.
            e_value = stats.betabinom.pmf(hits, n, 1, 1) / stats.binom.pmf(hits, n, p)
            assert (bounds.low <= p <= bounds.high) == (e_value <= 1 / ALPHA)
            mixture += stats.binom.pmf(hits, n, p) * e_value
            missed += stats.binom.pmf(hits, n, p) * (not bounds.low <= p <= bounds.high)
        assert mixture == pytest.approx(1.0)
        assert missed <= ALPHA


def test_bound_of_a_rate_within_rounding_of_its_end_is_the_end():
    """With one exception among four million, the root is closer to the end than 1e-15."""
    n = 4_000_000
    for hits, end in ((1, "low"), (n - 1, "high")):
        bounds = bound_loss(LabeledLoss(rows=n, n=n, mean=hits / n, m2=hits * (n - hits) / n), 0.01)
        assert getattr(bounds, end) == (end == "high")


def test_ordinary_loss_of_equal_rows_is_students_limit_of_windows_by_hand():
    # Windows without any noise of rows: Student's t with 4 degrees of freedom, and one more window.
    windows = [LabeledLoss(n=50, mean=mean, m2=0.0, binary=False) for mean in (0.1, 0.2, 0.3, 0.4, 0.5)]
    spread = np.std([0.1, 0.2, 0.3, 0.4, 0.5], ddof=1) * np.sqrt(1 + 1 / 5)
    assert ordinary_loss(windows, 0.01) == pytest.approx(0.3 + stats.t.isf(0.01, 4) * spread)
    # Fewer windows: their variation is unknown.
    few = [LabeledLoss(n=50, mean=0.2, m2=49.0, binary=False)] * (MIN_WINDOWS - 1)
    assert ordinary_loss(few, 0.01) == pytest.approx(0.2 + stats.t.isf(0.01, 196) / np.sqrt(200))
    assert ordinary_loss([], 0.01) == ordinary_loss([LabeledLoss(n=1)], 0.01) == np.inf


@pytest.mark.parametrize("between", [0.0, 0.02, 0.1])
def test_ordinary_loss_is_exceeded_by_a_windows_mean_at_most_as_often_as_alpha(between):
    rng = np.random.default_rng(0)
    chances = []
    for _ in range(400):
        means = 0.2 + between * rng.normal(size=12)
        windows = [LabeledLoss.from_losses(mean + 0.2 * rng.normal(size=80)) for mean in means]
        # Exactly, for each reference: the chance that one more window has a mean above the limit.
        excess = (ordinary_loss(windows, 0.01) - 0.2) / max(between, 1e-9)
        chances.append(stats.norm.sf(excess))
    assert np.mean(chances) <= 0.01 + 4 * np.std(chances) / 20
