from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.telemetry.metrics import BUCKETS_MS, VariantKey, cumulative_buckets, sum_metrics
from tests.factories.deployments.predictions import copied_batch, prediction_batch

CHAMPION, CHALLENGER = VariantKey("1", "champion"), VariantKey("2", "challenger")


def batch(requests: int, latency_ms: float):
    return prediction_batch("a", requests=["a"] * requests, champion_latency_ms=latency_ms)


def test_sum_metrics_of_a_batch_counts_each_request() -> None:
    sums = sum_metrics([batch(3, 0.4), batch(2, 5.0), batch(1, 5000.0)])
    assert sums.requests == {CHAMPION: 6}
    assert sums.latency_ms == {CHAMPION: 3 * 0.4 + 2 * 5.0 + 5000.0}
    assert sums.buckets == {(CHAMPION, 0): 3, (CHAMPION, BUCKETS_MS.index(5.0)): 2, (CHAMPION, len(BUCKETS_MS)): 1}


def test_sum_metrics_of_failures_counts_them_for_the_variant_that_failed() -> None:
    failed = prediction_batch("b", None, error="late", champion_error="broken")
    sums = sum_metrics([prediction_batch("a", 0.5, 0.9), failed])
    assert sums.errors == {CHALLENGER: 1, CHAMPION: 1}
    assert sums.requests == {CHALLENGER: 1, CHAMPION: 1}
    assert sums.buckets == {(CHALLENGER, BUCKETS_MS.index(2.0)): 1}


def test_sum_metrics_of_copies_count_failures_of_the_challenger_not_what_it_did_not_answer() -> None:
    sums = sum_metrics([copied_batch("a", "scored", 0.9), copied_batch("b", "failed"), copied_batch("c", "unanswered")])
    assert (sums.requests, sums.errors) == ({CHAMPION: 3}, {CHALLENGER: 1})
    assert sum(sums.buckets.values()) == 3


@given(st.lists(st.floats(0, 2e3), min_size=1))
def test_cumulative_buckets_equal_a_prometheus_histogram(latencies: list[float]) -> None:
    sums = sum_metrics([batch(1, latency) for latency in latencies])
    buckets = Counter({bound: count for key, bound, count in cumulative_buckets(sums.buckets) if key == CHAMPION})
    for bound in BUCKETS_MS:
        assert buckets[f"{bound:g}"] == sum(latency <= bound for latency in latencies)
    assert buckets["+Inf"] == len(latencies)
