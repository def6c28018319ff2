"""Sticky traffic: keys are counted once each, and tests treat the requests of a key as one cluster."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deployments.analysis.criteria import check_error_rate
from deployments.analysis.evidence import ClusterStats, ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.key_counts import KeyCounter
from deployments.analysis.mean_bounds import mean_bounds
from deployments.analysis.paired_moments import Moments, PairedMoments
from deployments.analysis.quality_test import compare_quality
from deployments.rollout_policy import RolloutPolicy

POLICY = RolloutPolicy(min_labeled=50, margin=0.05)
ROLLOUTS = 200
rows = st.lists(st.tuples(st.floats(0, 14), st.floats(0, 14), st.integers(0, 9)), max_size=40)


def of_pairs(paired: PairedMoments) -> RolloutEvidence:
    return RolloutEvidence(by_share={0.5: ComparisonEvidence(paired=paired)})


@given(rows, st.floats(0, 1))
def test_excess_variance_equals_that_of_the_sums_by_key(losses: list[tuple[float, float, int]], margin: float) -> None:
    array = np.array(losses).reshape(-1, 3)
    excess = PairedMoments.from_losses(array[:, 0], array[:, 1], array[:, 2]).excess(margin)
    deviations = array[:, 1] - (1.0 + margin) * array[:, 0]
    deviations = deviations - deviations.mean() if deviations.size else deviations
    sums = [deviations[array[:, 2] == key].sum() for key in np.unique(array[:, 2])]
    assert excess.m2 + excess.cross_products == pytest.approx(float(np.square(sums).sum()), rel=1e-6, abs=1e-6)


@given(rows, st.integers(0, 40))
def test_paired_moments_without_common_keys_merge(losses: list[tuple[float, float, int]], cut: int) -> None:
    array = np.array(losses).reshape(-1, 3)
    first, second = array[array[:, 2] < cut], array[array[:, 2] >= cut]
    merged = PairedMoments.from_losses(*first.T) + PairedMoments.from_losses(*second.T)
    whole = PairedMoments.from_losses(*array.T)
    assert merged.cluster_moments.model_dump() == pytest.approx(whole.cluster_moments.model_dump(), rel=1e-9, abs=1e-6)
    assert merged.effective_n == pytest.approx(whole.effective_n)


@given(st.lists(st.tuples(st.floats(0, 14), st.floats(0, 14)), min_size=1, max_size=40))
def test_paired_moments_with_unique_keys_equal_those_without(losses: list[tuple[float, float]]) -> None:
    champion, challenger = np.array(losses).T
    keyed = PairedMoments.from_losses(champion, challenger, np.arange(len(losses)))
    assert keyed == PairedMoments.from_losses(champion, challenger)
    assert keyed.excess(0.1).design_effect == 1.0
    assert keyed.effective_n == len(losses)


def sticky(chance: np.random.Generator, keys: int, visits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses of two equal variants, each of which suits some users better, and the key, by visit."""
    key = chance.integers(0, keys, visits)
    user = chance.normal(0.0, 0.2, keys)
    champion = chance.exponential(0.5, visits)
    return champion, champion + user[key] + chance.normal(0.0, 0.2, visits), key


@pytest.mark.long
def test_compare_quality_of_sticky_traffic_keeps_alpha_by_key_only() -> None:
    by_key = by_request = 0
    for seed in range(ROLLOUTS):
        champion, challenger, key = sticky(np.random.default_rng(seed), 150, 6_000)
        looks = range(200, 6_001, 200)
        of_keys = (PairedMoments.from_losses(champion[:n], challenger[:n], key[:n]) for n in looks)
        of_rows = (PairedMoments.from_losses(champion[:n], challenger[:n]) for n in looks)
        by_key += any(compare_quality(of_pairs(paired), POLICY).regression for paired in of_keys)
        by_request += any(compare_quality(of_pairs(paired), POLICY).regression for paired in of_rows)
    assert by_key <= stats.binom.ppf(0.999, ROLLOUTS, POLICY.test_alpha("quality"))
    # Per request, the very same traffic is aborted many times as often as alpha allows.
    assert by_request >= 5.0 * POLICY.alpha * ROLLOUTS


def test_compare_quality_of_sticky_traffic_finds_a_worse_challenger() -> None:
    for seed in range(20):
        champion, challenger, key = sticky(np.random.default_rng(seed), 150, 3_000)
        assert compare_quality(of_pairs(PairedMoments.from_losses(champion, challenger + 0.2, key)), POLICY).regression


def test_compare_quality_with_a_single_key_decides_nothing() -> None:
    chance = np.random.default_rng(0)
    champion = chance.exponential(0.5, 5_000)
    result = compare_quality(of_pairs(PairedMoments.from_losses(champion, champion + 1.0, np.zeros(5_000))), POLICY)
    assert (result.regression, "count as 1 independent rows" in result.missing_evidence) == ("", True)


def test_lower_bound_widens_with_the_design_effect() -> None:
    alone, sticky = (
        Moments(n=1_000, mean=1.0, m2=1_000.0),
        Moments(n=1_000, mean=1.0, m2=1_000.0, cross_products=3_000.0),
    )
    assert sticky.design_effect == pytest.approx(4.0)
    assert 1.6 < (1.0 - mean_bounds(sticky, 0.05, 200)[0]) / (1.0 - mean_bounds(alone, 0.05, 200)[0]) < 2.4


requests = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=60)


@given(requests)
def test_cluster_stats_equal_a_direct_count(rows: list[tuple[int, bool]]) -> None:
    keys = KeyCounter()
    for key, failed in rows:
        keys.add("challenger", [(str(key), failed)])
    counts = [(sum(k == key for k, _ in rows), sum(f for k, f in rows if k == key)) for key in {k for k, _ in rows}]
    assert keys.key_count("challenger") == len(counts)
    assert keys.cluster_stats("challenger") == ClusterStats(
        pairs=sum(n * (n - 1) for n, _ in counts),
        half_pairs=sum(f * (n - 1) for n, f in counts),
        failed_pairs=sum(f * (f - 1) for _, f in counts),
        failing_clusters=sum(f > 0 for _, f in counts),
    )


def test_key_counter_beyond_its_bound_keeps_a_representative_sample() -> None:
    keys = KeyCounter(most=1_000)
    for i in range(40_000):
        keys.add("challenger" if i % 4 == 0 else "champion", [(f"user-{i}", False)] * 2)
    counted, pairs = (
        [keys.key_count(variant) for variant in ("champion", "challenger")],
        keys.cluster_stats("champion").pairs,
    )
    total = sum(counted)
    assert 400 <= len(keys) <= 1_000 < total
    assert counted[1] / total == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / total))
    for i in range(40_000):
        keys.add("challenger" if i % 4 == 0 else "champion", [(f"user-{i}", False)])
    # A key that returns is not counted again, whether it is in the sample or not.
    assert [keys.key_count(variant) for variant in ("champion", "challenger")] == counted
    # Each key makes one unordered pair of requests.
    assert pairs == pytest.approx(60_000, rel=0.15)


def constant_keys(failing: np.ndarray, visits: int) -> VariantStats:
    """Stats of a variant whose keys each return ``visits`` times, and fail always or never."""
    keys = KeyCounter()
    keys.add("challenger", [(str(i), bool(fails)) for i, fails in enumerate(failing) for _ in range(visits)])
    failures = int(failing.sum()) * visits
    return VariantStats(
        requests=len(failing) * visits,
        errors=failures,
        failures=failures,
        keys=keys.key_count("challenger"),
        key_clusters=keys.cluster_stats("challenger"),
    )


def test_design_effect_of_constant_keys_is_the_number_of_visits() -> None:
    failing = np.random.default_rng(0).random(2_000) < 0.3
    assert constant_keys(failing, 1).design_effect == pytest.approx(1.0)
    assert constant_keys(failing, 20).design_effect == pytest.approx(20.0, rel=1e-6)
    assert constant_keys(np.zeros(50, bool), 20).design_effect == pytest.approx(20.0)


@pytest.mark.long
def test_check_error_rate_with_constant_keys_keeps_alpha() -> None:
    chance, aborts, advances = np.random.default_rng(1), 0, 0
    for _ in range(ROLLOUTS):
        failing = chance.random(300) < POLICY.max_error_rate
        variants = [constant_keys(failing[:n], 10) for n in range(50, 301, 50)]
        results = [
            check_error_rate(RolloutEvidence(by_share={0.5: ComparisonEvidence(challenger=arm)}), POLICY)
            for arm in variants
        ]
        aborts += any(result.regression for result in results)
        advances += any(not result.missing_evidence for result in results)
    assert aborts <= stats.binom.ppf(0.999, ROLLOUTS, POLICY.test_alpha("error_rate"))
    assert advances <= stats.binom.ppf(0.999, ROLLOUTS, POLICY.alpha)


def regressions(failing: np.ndarray, batch: int) -> list[str]:
    """Regressions reported after each batch of requests that arrive together; ``failing`` by request, in order."""
    clusters, results = KeyCounter(), []
    for at in range(0, len(failing), batch):
        clusters.add("challenger", [(str(at), bool(fails)) for fails in failing[at : at + batch]])
        requests, failures = at + batch, int(failing[: at + batch].sum())
        arm = VariantStats(
            requests=requests, errors=failures, failures=failures, time_clusters=clusters.cluster_stats("challenger")
        )
        results.append(
            check_error_rate(RolloutEvidence(by_share={0.5: ComparisonEvidence(challenger=arm)}), POLICY).regression
        )
    return results


def test_check_error_rate_during_a_stall_reports_no_regression() -> None:
    failing = np.random.default_rng(2).random(4_000) < 0.002
    for stall in (slice(0, 40), slice(15, 45), slice(2_000, 2_060)):
        stalled = failing.copy()
        stalled[stall] = True
        assert regressions(stalled, 40) == [""] * 100
    stalled = failing[:400].copy()
    stalled[:30] = True
    assert any(regressions(stalled, 1)), "independent failures would be a regression"


@pytest.mark.parametrize(("rate", "moments"), [(1.0, 3), (0.5, 4), (0.1, 20)])
def test_check_error_rate_of_persistent_failures_reports_a_regression_soon(rate: float, moments: int) -> None:
    failing = np.random.default_rng(3).random(40 * moments) < rate
    assert any(regressions(failing, 40))
