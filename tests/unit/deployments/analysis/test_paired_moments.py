"""Moments of paired losses, by hand; their merging is tested in test_key_counts.py and test_verdict.py."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.analysis.paired_moments import ClusterMoments, Moments, PairedMoments

CHAMPION, CHALLENGER = np.array([1.0, 3.0]), np.array([2.0, 6.0])


def test_paired_moments_of_two_rows() -> None:
    paired = PairedMoments.from_losses(CHAMPION, CHALLENGER)
    assert paired == PairedMoments(n=2, champion=2.0, challenger=4.0, m2_champion=2.0, m2_challenger=8.0, comoment=4.0)
    # The losses above one and a half times the champion's are 0.5 and 1.5.
    assert paired.excess(0.5) == Moments(n=2, mean=1.0, m2=0.5)
    assert paired.excess(0.5).variance == 0.25


def test_moments_without_rows_are_zero() -> None:
    none = np.array([])
    assert PairedMoments.from_losses(none, none).excess(0.1) == Moments()
    assert not any(Moments().model_dump().values())
    assert (Moments().variance, Moments().design_effect, PairedMoments().effective_n) == (0.0, 1.0, 0.0)
    merged = PairedMoments() + PairedMoments.from_losses(CHAMPION, CHALLENGER)
    assert merged == PairedMoments.from_losses(CHAMPION, CHALLENGER)
    assert PairedMoments() + PairedMoments() == PairedMoments()


def test_cluster_moments_sum_over_pairs_of_different_rows_of_a_key() -> None:
    moments = ClusterMoments.from_losses(
        np.array([1.0, 5.0, 3.0]), np.array([2.0, 1.0, 6.0]), np.array(["a", "b", "a"])
    )
    # The ordered pairs are (a1, a2) and (a2, a1).
    assert moments == ClusterMoments(
        pairs=2.0, champion=4.0, challenger=8.0, champion2=6.0, challenger2=24.0, product=12.0
    )
    # Deviations of challenger - 2 * champion from -1: 1 and 1.
    assert moments.cross_products(2.0, -1.0) == pytest.approx(2.0)


@pytest.mark.parametrize(("keys", "effective"), [([1, 1, 1, 1], 1.0), ([1, 1, 2, 2], 2.0), ([1, 2, 3, 4], 4.0)])
def test_effective_n_of_equal_keys_is_their_number(keys: list[int], effective: float) -> None:
    losses = np.arange(4.0)
    assert PairedMoments.from_losses(losses, losses, np.array(keys)).effective_n == effective


@pytest.mark.parametrize(("cross_products", "effect"), [(3.0, 2.5), (0.0, 1.0), (-1.0, 1.0)])
def test_design_effect_is_at_least_one(cross_products: float, effect: float) -> None:
    assert Moments(n=4, m2=2.0, cross_products=cross_products).design_effect == effect
