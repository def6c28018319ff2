"""The generated rollouts of the benchmark of evidence: harms have the size they claim, and rows are counted."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.evidence import ladder, rows
from benchmarks.evidence.rows import HARMS, POLICY, draw, noise_for


@pytest.mark.parametrize("harm", HARMS[1:], ids=lambda harm: f"{harm.size:.0%}")
def test_noise_raises_the_log_loss_by_the_harm(harm: rows.Harm) -> None:
    champion, challenger = (
        loss.mean() for loss in draw(np.random.default_rng(3), 400_000, noise_for(harm.size)).losses
    )
    assert challenger / champion - 1.0 == pytest.approx(harm.size, rel=0.1)


def test_rows_to_a_harm_of_a_fifth_are_few() -> None:
    needed = [rows.rows_to_harm(HARMS[-1], POLICY, seed) for seed in range(11)]
    assert np.median(needed) <= HARMS[-1].most_rows
    assert all(n % HARMS[-1].look_rows == 0 for n in needed)


def test_looks_of_the_peer_have_the_sums_of_both_arms() -> None:
    ends = np.array([100, 300])
    first, second = rows.looks_of(HARMS[-1], ends, seed=0, covariate="pairs")
    assert [sum(arm[0] for arm in look) for look in (first, second)] == [100, 300]
    champion, _ = second
    # The champion's own loss is its covariate.
    assert champion[1:3] == pytest.approx(champion[3:5])
    assert champion[2] == pytest.approx(champion[5])


def test_promotion_of_an_equal_challenger_takes_its_minimum_at_each_step() -> None:
    needed = [ladder.promotion_rows(ladder.POLICY, "all", seed) for seed in range(3)]
    steps, minimum = len(ladder.POLICY.steps), ladder.POLICY.min_labeled
    assert all(steps * minimum <= n <= ladder.MOST_ROWS for n in needed)
