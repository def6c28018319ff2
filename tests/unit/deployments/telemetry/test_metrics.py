from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.telemetry.metrics import BUCKETS_MS, VariantKey, cumulative_buckets, sum_metrics
from tests.factories.deployments.predictions import prediction_batch

CHAMPION, CHALLENGER = VariantKey("1", "champion"), VariantKey("2", "challenger")


def batch(requests: int, latency_ms: float):
    return prediction_batch("a", requests=["a"] * requests, champion_latency_ms=latency_ms)


def test_a_batch_counts_as_its_requests_and_its_latency_as_theirs() -> None:
    made = sum_metrics([batch(3, 0.4), batch(2, 5.0), batch(1, 5000.0)])
    assert made.requests == {CHAMPION: 6}
    assert made.latency_ms == {CHAMPION: 3 * 0.4 + 2 * 5.0 + 5000.0}
    assert made.buckets == {(CHAMPION, 0): 3, (CHAMPION, BUCKETS_MS.index(5.0)): 2, (CHAMPION, len(BUCKETS_MS)): 1}


def test_a_failure_is_that_of_the_variant_which_failed() -> None:
    failed = prediction_batch("b", None, error="late", champion_error="broken")
    made = sum_metrics([prediction_batch("a", 0.5, 0.9), failed])
    assert made.errors == {CHALLENGER: 1, CHAMPION: 1}
    assert made.requests == {CHALLENGER: 1, CHAMPION: 1}
    assert made.buckets == {(CHALLENGER, BUCKETS_MS.index(2.0)): 1}


@given(st.lists(st.floats(0, 2e3), min_size=1))
def test_buckets_are_those_of_a_prometheus_histogram(latencies: list[float]) -> None:
    made = sum_metrics([batch(1, latency) for latency in latencies])
    told = Counter({bound: count for who, bound, count in cumulative_buckets(made.buckets) if who == CHAMPION})
    for bound in BUCKETS_MS:
        assert told[f"{bound:g}"] == sum(latency <= bound for latency in latencies)
    assert told["+Inf"] == len(latencies)
