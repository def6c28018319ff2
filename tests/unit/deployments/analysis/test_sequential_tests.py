"""Sequential tests on counts: wrong with probability at most alpha at all times, and with enough power."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.sample_ratio import CONCENTRATION, keys_by_share, log_e_split
from deployments.analysis.sequential_tests import (
    log_e_above,
    log_e_below,
    log_e_multinomial,
    log_e_rate_ratio,
    log_wealth,
)

ALPHA = 0.05
THRESHOLD = math.log(1.0 / ALPHA)
RUNS = 1_000
STEPS = (0.05, 0.25, 0.5, 1.0)


def at_most(bound: float, runs: int = RUNS) -> int:
    """Events that a probability of ``bound`` exceeds in one of a thousand experiments."""
    return int(stats.binom.ppf(0.999, runs, bound))


def key_counts(champion: int, challenger: int, share: float) -> ComparisonEvidence:
    return ComparisonEvidence(champion=VariantStats(keys=champion), challenger=VariantStats(keys=challenger))


@pytest.mark.long
def test_log_e_split_of_a_sound_split_keeps_alpha() -> None:
    chance = np.random.default_rng(0)
    alarms = 0
    for _ in range(RUNS):
        by_share: dict[float, ComparisonEvidence] = {}
        alarm = False
        for share in STEPS[:-1]:
            for keys in range(200, 2_001, 200):
                before = by_share.get(share, ComparisonEvidence()).challenger.keys
                challenger = before + int(chance.binomial(200, share))
                by_share[share] = key_counts(keys - challenger, challenger, share)
                alarm = alarm or log_e_split(RolloutEvidence(by_share=by_share), STEPS) >= THRESHOLD
        alarms += alarm
    assert alarms <= at_most(ALPHA)


@pytest.mark.long
def test_log_e_multinomial_of_a_sound_split_keeps_alpha() -> None:
    chance = np.random.default_rng(1)
    challenger = (chance.random((RUNS, 1_000)) < 0.25).cumsum(axis=1)
    shares, alarms = np.array([0.75, 0.25]), 0
    for row in challenger:
        looks = (
            log_e_multinomial(np.array([n - row[n - 1], row[n - 1]]), shares, CONCENTRATION)
            for n in range(10, 1_001, 10)
        )
        alarms += any(log_e >= THRESHOLD for log_e in looks)
    assert alarms <= at_most(ALPHA)


@pytest.mark.parametrize(("share", "real", "keys"), [(0.05, 0.03, 5_000), (0.25, 0.2, 4_000), (0.5, 0.46, 6_000)])
def test_log_e_split_of_a_broken_split_exceeds_the_threshold(share: float, real: float, keys: int) -> None:
    chance = np.random.default_rng(2)
    detections = 0
    for _ in range(200):
        challenger = int(chance.binomial(keys, real))
        evidence = RolloutEvidence(by_share={share: key_counts(keys - challenger, challenger, share)})
        detections += log_e_split(evidence, STEPS) >= THRESHOLD
    assert detections >= 180


def test_log_e_split_at_full_share_with_a_champion_key_is_infinite() -> None:
    assert log_e_split(RolloutEvidence(by_share={1.0: key_counts(1, 1_000, 1.0)}), STEPS) == math.inf
    assert log_e_split(RolloutEvidence(by_share={1.0: key_counts(0, 1_000, 1.0)}), STEPS) <= 0.0
    assert keys_by_share(RolloutEvidence(by_share={1.0: key_counts(1, 9, 1.0)})) == {1.0: (1, 9)}


@given(st.lists(st.integers(0, 500), min_size=2, max_size=4), st.integers(0, 100))
def test_log_e_multinomial_is_a_martingale(counts: list[int], seed: int) -> None:
    # One more key, dealt by the shares: the expected e-value is today's. That is what makes it an e-process.
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(counts)) * 5.0)
    now = log_e_multinomial(np.array(counts), shares, CONCENTRATION)
    after = [log_e_multinomial(np.array(counts) + one, shares, CONCENTRATION) for one in np.eye(len(counts), dtype=int)]
    assert float(shares @ np.exp(np.array(after) - now)) == pytest.approx(1.0, rel=1e-9)


@given(st.dictionaries(st.sampled_from(STEPS[:-1]), st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_log_e_rate_ratio_at_the_margin_is_a_martingale(errors: dict[float, tuple[int, int]]) -> None:
    margin, now = 0.5, log_e_rate_ratio(errors, 0.5)
    for share, (champion, challenger) in errors.items():
        odds = (1.0 + margin) * share / (1.0 - share)
        more = [(champion + 1, challenger), (champion, challenger + 1)]
        expected = [math.exp(log_e_rate_ratio(errors | {share: to}, margin) - now) for to in more]
        assert (expected[0] + odds * expected[1]) / (1.0 + odds) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("log_e", [log_e_above, log_e_below])
@pytest.mark.parametrize(("limit", "requests"), [(0.02, 1), (0.02, 300), (0.5, 40), (0.9, 25)])
def test_log_e_at_the_limit_has_mean_one(log_e: Callable, limit: float, requests: int) -> None:
    errors = np.arange(requests + 1)
    mean = np.exp(stats.binom.logpmf(errors, requests, limit) + log_e(errors, requests, limit)).sum()
    assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("log_e", "rate"), [(log_e_above, 0.015), (log_e_below, 0.025)])
def test_log_e_within_the_null_has_a_mean_below_one(log_e: Callable, rate: float) -> None:
    errors = np.arange(301)
    assert np.exp(stats.binom.logpmf(errors, 300, rate) + log_e(errors, 300, 0.02)).sum() < 0.95


@pytest.mark.long
def test_log_e_rate_ratio_of_equal_varying_rates_keeps_alpha() -> None:
    chance = np.random.default_rng(3)
    alarms = 0
    for _ in range(RUNS):
        errors: dict[float, tuple[int, int]] = {}
        alarm = False
        for share in STEPS[:-1]:
            champion = challenger = 0
            for _ in range(20):
                rate = chance.choice([0.0, 0.005, 0.05])
                challenger += int(chance.binomial(int(100 * share), rate))
                champion += int(chance.binomial(int(100 * (1.0 - share)), rate))
                errors[share] = (champion, challenger)
                alarm = alarm or log_e_rate_ratio(errors, 0.0) >= THRESHOLD
        alarms += alarm
    assert alarms <= at_most(ALPHA)


def test_log_e_rate_ratio_of_doubled_errors_exceeds_the_threshold() -> None:
    chance = np.random.default_rng(4)
    detections = 0
    for _ in range(200):
        champion, challenger = int(chance.binomial(5_000, 0.01)), int(chance.binomial(5_000, 0.025))
        detections += log_e_rate_ratio({0.5: (champion, challenger)}, 0.0) >= THRESHOLD
    assert detections >= 180


@given(st.lists(st.integers(0, 200), min_size=3, max_size=3), st.floats(0.0, 0.5))
def test_log_wealth_at_mean_zero_is_a_martingale(counts: list[int], margin: float) -> None:
    values = np.array([-1.0, 0.0, 1.0 + margin])
    # Probabilities under which the mean is 0.
    chances = np.array([1.0 + margin, 1.0, 1.0]) / (3.0 + margin)
    now = log_wealth(zip(values, counts, strict=True))
    after = [log_wealth(zip(values, np.array(counts) + one, strict=True)) for one in np.eye(3)]
    assert float(chances @ np.exp(np.array(after) - now)) == pytest.approx(1.0, rel=1e-9)


def test_log_wealth_above_mean_zero_exceeds_the_threshold() -> None:
    assert log_wealth([(1.0, 130.0), (-1.0, 70.0)]) >= THRESHOLD
    assert log_wealth([(1.0, 100.0), (-1.0, 100.0)]) < 0.0
