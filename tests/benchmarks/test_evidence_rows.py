"""The generated rollouts of the benchmark of evidence: harms have the size they claim, and rows are counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence import ladder, rows
from benchmarks.evidence.ladder import Copying
from benchmarks.evidence.logged_rollout import LoggedRollout, Traffic
from benchmarks.evidence.rows import HARMS, POLICY, draw, noise_for
from deployments.rollout_policy import RolloutPolicy


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
    needed = [ladder.promotion_rows(ladder.POLICY, Copying(1.0), seed) for seed in range(5)]
    steps, minimum = len(ladder.POLICY.steps), ladder.POLICY.min_labeled
    assert all(steps * minimum <= n <= ladder.HORIZON for n in needed)
    assert np.median(needed) <= ladder.MOST_ROWS


def test_harm_of_a_fifth_is_shown_from_the_log_as_from_the_losses() -> None:
    from_log = [ladder.harm_rows(HARMS[-1], 1.0, seed) for seed in range(11)]
    assert np.median(from_log) <= HARMS[-1].most_rows
    # Without copies, only the share is paired.
    assert ladder.harm_rows(HARMS[-1], 0.0, 0) > 4 * np.median(from_log)


@pytest.mark.parametrize(
    ("traffic", "kinds"),
    [
        (Traffic(), {"advance"}),
        (Traffic(error_rate=0.3), {"abort"}),
        (Traffic(unanswered=0.1), {"abort", "hold"}),
        (Traffic(dropped=0.5), {"advance"}),
    ],
    ids=["sound", "failing", "late", "dropped"],
)
def test_copies_of_a_logged_rollout_lead_to_its_verdict(traffic: Traffic, kinds: set[str]) -> None:
    rollout = LoggedRollout(RolloutPolicy(copies=1.0), 1, traffic)
    for _ in range(10):
        rollout.serve(80, 0.05)
    total = rollout.evidence().total
    assert rollout.judge(0.05).kind in kinds
    assert total.champion.requests + total.challenger.requests == rollout.rows == 800
    share_copied = total.copies.requests / total.champion.requests
    assert share_copied == pytest.approx(1.0 - traffic.dropped, abs=0.06)
    assert total.copies.unanswered / total.copies.requests == pytest.approx(traffic.unanswered, abs=0.03)


@pytest.mark.long
@pytest.mark.parametrize(
    ("traffic", "wrong"),
    [
        (Traffic(error_rate=0.005), "abort"),
        (Traffic(error_rate=0.01, dropped=0.5), "abort"),
        (Traffic(error_rate=0.03, shared=True), "advance"),
        # Half of these are no error where an abort is asked for, and all where an advance is.
        (Traffic(error_rate=0.015, unanswered=0.015, shared=True), "advance"),
    ],
    ids=["sound", "sound_with_drops", "failing", "half_unanswered"],
)
def test_copies_keep_alpha(traffic: Traffic, wrong: str) -> None:
    policy, rollouts = RolloutPolicy(copies=1.0), 60
    ends = [_first_end(LoggedRollout(policy, seed, traffic)) for seed in range(rollouts)]
    assert ends.count(wrong) <= stats.binom.ppf(0.999, rollouts, policy.alpha)


def _first_end(rollout: LoggedRollout) -> str:
    """Verdict of the first step, looked at after every 60 rows; "hold" if there is none in 1,200."""
    while rollout.rows < 1_200:
        rollout.serve(60, 0.05)
        if (kind := rollout.judge(0.05).kind) != "hold":
            return kind
    return "hold"
