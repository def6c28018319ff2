"""Design effects of clustered requests, by hand, and evidence by share."""

from __future__ import annotations

import pytest

from deployments.analysis.evidence import (
    ClusterStats,
    ComparisonEvidence,
    RolloutEvidence,
    VariantStats,
    pairwise_share,
)


def clusters(*counts: tuple[int, int]) -> ClusterStats:
    """Sums over clusters, given the requests and the failures of each."""
    return ClusterStats(
        pairs=sum(n * (n - 1) for n, _ in counts),
        half_pairs=sum(f * (n - 1) for n, f in counts),
        failed_pairs=sum(f * (f - 1) for _, f in counts),
        failing_clusters=sum(f > 0 for _, f in counts),
    )


def variant(keys: list[tuple[int, int]] | None = None, times: list[tuple[int, int]] | None = None) -> VariantStats:
    counts = keys or times or []
    return VariantStats(
        requests=sum(n for n, _ in counts),
        failures=sum(f for _, f in counts),
        key_clusters=clusters(*(keys or [])),
        time_clusters=clusters(*(times or [])),
    )


@pytest.mark.parametrize(
    ("counts", "excess"),
    [
        # Rate 3/5: squared deviations of the clusters' failures, 2.24, less those of single requests, 1.2, over 1.2.
        ([(2, 2), (2, 0), (1, 1)], 1.04 / 1.2),
        # Each cluster fails as often as all requests do: less than independent requests would vary.
        ([(2, 1), (2, 1)], 0.0),
        # All end alike: the correlation is unknown and counts as 1.
        ([(3, 0), (1, 0)], 6 / 4),
        ([(3, 3), (1, 1)], 6 / 4),
        ([], 0.0),
    ],
)
def test_excess_variance_of_keys_is_that_of_their_sums(counts: list[tuple[int, int]], excess: float) -> None:
    assert variant(keys=counts).design_effect == pytest.approx(1.0 + excess)


@pytest.mark.parametrize(
    ("counts", "effect"),
    [
        # A single bucket fails: the largest excess, pairs by requests, counts.
        ([(3, 2), (3, 0)], 1.0 + 12 / 6),
        # Two fail: half of it.
        ([(3, 1), (3, 1)], 1.0 + 12 / 6 / 2),
        # The estimated excess, 1, is above a third of the largest.
        ([(2, 2)] * 3 + [(2, 0)] * 3, 2.0),
        ([(3, 0), (3, 0)], 1.0),
    ],
)
def test_design_effect_of_a_stall_shrinks_as_more_buckets_fail(counts: list[tuple[int, int]], effect: float) -> None:
    assert variant(times=counts).design_effect == pytest.approx(effect)


def test_kish_effect_is_the_requests_of_a_key_that_a_request_shares() -> None:
    assert variant(keys=[(4, 1), (4, 0)]).kish_effect == 4.0
    assert variant(keys=[(1, 1), (1, 0)]).kish_effect == 1.0
    assert VariantStats().kish_effect == 1.0


@pytest.mark.parametrize(("share", "champion", "expected"), [(0.1, 0.8, 1 / 9), (0.0, 0.0, 0.0), (1.0, 0.0, 1.0)])
def test_pairwise_share_is_the_part_of_the_two(share: float, champion: float, expected: float) -> None:
    assert pairwise_share(share, champion) == pytest.approx(expected)


def test_total_is_the_sum_over_shares_unless_given() -> None:
    low, high = (
        ComparisonEvidence(champion=VariantStats(requests=n), challenger=VariantStats(requests=1)) for n in (9, 1)
    )
    evidence = RolloutEvidence(by_share={0.1: low, 0.5: high})
    assert (evidence.total.champion.requests, evidence.total.challenger.requests) == (10, 2)
    assert evidence.model_copy(update={"overall": low}).total == low
    assert (evidence.at_share(0.1 + 1e-12), evidence.at_share(0.2)) == (low, ComparisonEvidence())
