"""Each criterion at its threshold, from both sides, where its e-value has a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deployments.analysis.criteria import (
    CriterionResult,
    check_error_rate,
    check_memory_growth,
    compare_error_rates,
    compare_latency,
)
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.rollout_policy import RolloutPolicy

# Each of the tests that may abort spends 0.005, quality more.
POLICY = RolloutPolicy(alpha=0.05, max_error_rate=0.02, min_requests=50)
BY_MEDIAN = POLICY.model_copy(update={"latency_quantile": 0.5})


def evidence(champion: VariantStats, challenger: VariantStats, share: float = 0.5) -> RolloutEvidence:
    return RolloutEvidence(by_share={share: ComparisonEvidence(champion=champion, challenger=challenger)})


def failing(requests: int, errors: int) -> RolloutEvidence:
    return evidence(VariantStats(), VariantStats(requests=requests, errors=errors, failures=errors))


@pytest.mark.parametrize(("requests", "regression"), [(1, False), (2, True)])
def test_check_error_rate_of_failures_alone_needs_two(requests: int, regression: bool) -> None:
    result = check_error_rate(failing(requests, requests), POLICY)
    e = (1.0 - 0.02 ** (requests + 1)) / ((requests + 1) * 0.98 * 0.02**requests)
    assert result.figures["log_e_errors_above"] == pytest.approx(math.log(e))
    assert (bool(result.regression), e >= 200.0) == (regression, regression)


@pytest.mark.parametrize(("requests", "sufficient"), [(223, False), (224, True)])
def test_check_error_rate_without_failures_needs_224_requests(requests: int, sufficient: bool) -> None:
    result = check_error_rate(failing(requests, 0), POLICY)
    e = (1.0 - 0.98 ** (requests + 1)) / ((requests + 1) * 0.02 * 0.98**requests)
    assert result.figures["log_e_errors_below"] == pytest.approx(math.log(e))
    assert (not result.missing_evidence, e >= 20.0) == (sufficient, sufficient)


@pytest.mark.parametrize(("copies", "sufficient"), [(173, False), (174, True)])
def test_check_error_rate_counts_copies_as_own_requests(copies: int, sufficient: bool) -> None:
    one = ComparisonEvidence(challenger=VariantStats(requests=50), copies=VariantStats(requests=copies))
    result = check_error_rate(RolloutEvidence(by_share={0.05: one}), POLICY)
    assert (not result.missing_evidence) == sufficient
    failed = ComparisonEvidence(copies=VariantStats(requests=2, errors=2, failures=2))
    assert check_error_rate(RolloutEvidence(by_share={0.05: failed}), POLICY).regression


def test_check_error_rate_of_copies_without_an_answer_neither_blames_nor_clears() -> None:
    copies = VariantStats(requests=1000, unanswered=100)
    result = check_error_rate(RolloutEvidence(by_share={0.05: ComparisonEvidence(copies=copies)}), POLICY)
    assert (bool(result.regression), bool(result.missing_evidence)) == (False, True)
    clean, dirty = failing(1000, 0), failing(1000, 100)
    assert result.figures == {
        "log_e_errors_above": check_error_rate(clean, POLICY).figures["log_e_errors_above"],
        "log_e_errors_below": check_error_rate(dirty, POLICY).figures["log_e_errors_below"],
    }


def test_compare_error_rates_leaves_copies_out() -> None:
    copies = VariantStats(requests=1000, errors=100, failures=100)
    one = failing(50, 0).by_share[0.5].model_copy(update={"copies": copies})
    result = compare_error_rates(RolloutEvidence(by_share={0.5: one}), POLICY)
    assert result == compare_error_rates(failing(50, 0), POLICY)


def test_compare_error_rates_without_a_margin_compares_nothing() -> None:
    policy = POLICY.model_copy(update={"error_margin": None})
    assert compare_error_rates(failing(100, 100), policy) == CriterionResult()
    assert compare_error_rates(failing(100, 100), POLICY).regression
    assert not compare_error_rates(failing(49, 49), POLICY).regression


def test_check_memory_growth_at_the_limit_is_allowed() -> None:
    policy = POLICY.model_copy(update={"max_growth_mib": 10.0})
    at, beyond = (check_memory_growth(RolloutEvidence(memory_growth_mib=mib), policy) for mib in (10.0, 10.5))
    assert (at.regression, at.figures, bool(beyond.regression)) == ("", {"challenger_grown_mib": 10.0}, True)
    unlimited = POLICY.model_copy(update={"max_growth_mib": None})
    assert check_memory_growth(RolloutEvidence(memory_growth_mib=1e6), unlimited) == CriterionResult()


def latencies(n: int, champion_ms: float, challenger_ms: float, requests: int = 50) -> RolloutEvidence:
    """n equal latencies of each variant; at the median, the bounds need 12 at 0.0025: (2**13 - 1) / 13 > 400."""
    champion, challenger = (LatencyHistogram.from_values(np.full(n, ms)) for ms in (champion_ms, challenger_ms))
    return evidence(VariantStats(latency=champion), VariantStats(requests=requests, latency=challenger))


@pytest.mark.parametrize(
    ("n", "challenger_ms", "requests", "slower"),
    [
        (12, 64.0, 50, True),
        (11, 64.0, 50, False),
        (12, 64.0, 49, False),
        # Allowed are half of the champion's 16 ms and 10 ms more: 34 ms. A lower bound is a bin below the latency.
        (12, 34.5, 50, False),
        (12, 37.0, 50, True),
    ],
)
def test_compare_latency_beyond_margin_and_floor_is_a_regression(
    n: int, challenger_ms: float, requests: int, slower: bool
) -> None:
    result = compare_latency(latencies(n, 16.0, challenger_ms, requests), BY_MEDIAN)
    assert bool(result.regression) == slower
    assert result.missing_evidence == ""


@pytest.mark.parametrize(("n", "challenger_ms", "sufficient"), [(11, 16.0, True), (11, 37.0, False), (7, 16.0, False)])
def test_compare_latency_to_advance_requires_evidence(n: int, challenger_ms: float, sufficient: bool) -> None:
    # To advance, each bound spends 0.025: 8 latencies suffice.
    policy = BY_MEDIAN.model_copy(update={"latency_to_advance": True})
    assert (compare_latency(latencies(n, 16.0, challenger_ms), policy).missing_evidence == "") == sufficient


def test_compare_latency_without_a_quantile_compares_nothing() -> None:
    policy = POLICY.model_copy(update={"latency_quantile": None})
    assert compare_latency(latencies(100, 1.0, 1000.0), policy) == CriterionResult()
