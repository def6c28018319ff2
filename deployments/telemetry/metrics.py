"""Metrics of a replica as Ray metrics, for Ray's dashboard and Prometheus.

A call of Ray's metrics costs several microseconds, more than logging the row. Equal labels are therefore summed first,
and latencies are counted by bucket in a counter: Ray's histogram takes one observation at a time. Ray's agent exports

    ray_rayloop_requests_total, ray_rayloop_errors_total        by model, version, variant
    ray_rayloop_latency_ms_bucket_total                         the same, and ``le``, as of a Prometheus histogram
    ray_rayloop_latency_ms_sum_total                            milliseconds
    ray_rayloop_http_requests_total                             by model, method, status
    ray_rayloop_requests_under_way                              by model, replica: the queue
    ray_rayloop_log_dropped_rows_total, ray_rayloop_shadow_dropped_total        by model

so that ``histogram_quantile(0.99, sum by (le, model) (rate(ray_rayloop_latency_ms_bucket_total[5m])))`` is a model's
p99. Requests to a model bypass Serve (uvicorn_protocol.py), which would therefore show none of them: they are also
exported under Serve's own names, ``serve_num_http_requests`` and the others that Ray's dashboard draws.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ray.serve._private.constants import REQUEST_LATENCY_BUCKETS_MS
from ray.util import metrics

from cluster.names import CHALLENGER, CHAMPION
from deployments.serve_schema import model_app_name
from deployments.telemetry.prediction_log import PredictionBatch

BUCKETS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 1000.0)
_FIRST_ERROR = 400
_BOUNDS = (*(f"{bound:g}" for bound in BUCKETS_MS), "+Inf")


class VariantKey(NamedTuple):
    """Labels of a variant's metrics."""

    version: str
    variant: str


class ResponseKey(NamedTuple):
    """Labels of an HTTP response."""

    method: str
    status: int


class MetricSums(NamedTuple):
    """Sums over predictions, by variant."""

    requests: Counter[VariantKey]
    errors: Counter[VariantKey]
    """Requests that the variant failed."""
    latency_ms: dict[VariantKey, float]
    """Summed over requests."""
    buckets: Counter[tuple[VariantKey, int]]
    """Requests by the index of their latency's bucket in BUCKETS_MS."""


def sum_metrics(batches: Sequence[PredictionBatch]) -> MetricSums:
    """Sum what predictions add to the counters. A batch's latency counts once for each of its requests."""
    sums = MetricSums(Counter(), Counter(), defaultdict(float), Counter())
    for batch in batches:
        requests, key = len(batch.requests), VariantKey(batch.version, batch.variant)
        sums.requests[key] += requests
        if batch.latency_ms is not None:
            sums.latency_ms[key] += requests * batch.latency_ms
            sums.buckets[key, bisect_left(BUCKETS_MS, batch.latency_ms)] += requests
        if batch.error and batch.copied != "unanswered":
            sums.errors[VariantKey(batch.challenger_version or batch.version, CHALLENGER)] += requests
        if batch.champion_error:
            sums.errors[VariantKey(batch.champion_version, CHAMPION)] += requests
    return sums


def cumulative_buckets(buckets: Mapping[tuple[VariantKey, int], int]) -> Iterator[tuple[VariantKey, str, int]]:
    """Yield variant, bound (``le``) and the number of requests up to it, as a Prometheus histogram counts them."""
    for key in {key for key, _ in buckets}:
        total = 0
        for index, bound in enumerate(_BOUNDS):
            total += buckets.get((key, index), 0)
            if total:
                yield key, bound, total


class ReplicaMetrics:
    """Metrics of one model in this process.

    Args:
        model: Name of the model.
        replica: Name of the replica.
    """

    def __init__(self, model: str, replica: str) -> None:
        tags = ("model", "version", "variant")
        self._model = model
        self._replica = replica
        self._in_flight = metrics.Gauge(
            "rayloop_requests_under_way", "Requests that are answered or wait, every half second.", ("model", "replica")
        )
        self._requests = metrics.Counter("rayloop_requests", "Requests answered.", tags)
        self._responses = metrics.Counter("rayloop_http_requests", "HTTP answers.", ("model", "method", "status"))
        self._serve_metrics = _ServeMetrics(model)
        self._errors = metrics.Counter("rayloop_errors", "Requests that the variant failed.", tags)
        self._buckets = metrics.Counter(
            "rayloop_latency_ms_bucket", "Requests whose features and model took at most `le` ms.", (*tags, "le")
        )
        self._latency = metrics.Counter("rayloop_latency_ms_sum", "Milliseconds for features and model.", tags)
        self._dropped_rows = metrics.Counter(
            "rayloop_log_dropped_rows", "Log rows dropped because buffers were full.", ("model",)
        )
        self._dropped_copies = metrics.Counter(
            "rayloop_shadow_dropped", "Requests not copied to the challenger.", ("model",)
        )

    def record_predictions(self, batches: Sequence[PredictionBatch]) -> None:
        """Count predictions."""
        sums = sum_metrics(batches)
        by_variant: list[tuple[metrics.Counter, Mapping[VariantKey, float]]] = [
            (self._requests, sums.requests),
            (self._errors, sums.errors),
            (self._latency, sums.latency_ms),
        ]
        for counter, values in by_variant:
            for key, value in values.items():
                # Ray does not accept zero.
                if value > 0:
                    counter.inc(value, tags=self._tags(key))
        for key, bound, count in cumulative_buckets(sums.buckets):
            self._buckets.inc(count, tags=self._tags(key) | {"le": bound})

    def record_responses(self, counts: Mapping[ResponseKey, int], timed: Sequence[tuple[ResponseKey, float]]) -> None:
        """Count HTTP responses.

        Args:
            counts: Number of responses by labels.
            timed: A sample of the responses, with their seconds.
        """
        for key, count in counts.items():
            tags = {"model": self._model, "method": key.method, "status": str(key.status)}
            self._responses.inc(count, tags=tags)
        self._serve_metrics.record_responses(counts, timed)

    def set_in_flight(self, requests: int) -> None:
        """Set the number of requests that are in flight now."""
        self._in_flight.set(requests, {"model": self._model, "replica": self._replica})

    def record_dropped_rows(self, rows: int) -> None:
        """Count log rows that were dropped."""
        if rows:
            self._dropped_rows.inc(rows, tags={"model": self._model})

    def record_dropped_copies(self, requests: int) -> None:
        """Count requests that were not copied to the challenger."""
        if requests:
            self._dropped_copies.inc(requests, tags={"model": self._model})

    def _tags(self, key: VariantKey) -> dict[str, str]:
        return {"model": self._model, "version": key.version, "variant": key.variant}


class _ServeMetrics:
    """Serve's own HTTP metrics, for requests that bypass Serve: Ray's dashboard draws them."""

    def __init__(self, model: str) -> None:
        tags = ("route", "method", "application")
        self._tags = {"route": f"/v2/models/{model}", "application": model_app_name(model)}
        self._requests = metrics.Counter("serve_num_http_requests", "HTTP requests.", (*tags, "status_code"))
        self._errors = metrics.Counter("serve_num_http_error_requests", "HTTP errors.", (*tags, "error_code"))
        self._latency = metrics.Histogram(
            "serve_http_request_latency_ms", "Milliseconds for an HTTP request, of a sample.",
            REQUEST_LATENCY_BUCKETS_MS, (*tags, "status_code"),
        )  # fmt: skip

    def record_responses(self, counts: Mapping[ResponseKey, int], timed: Sequence[tuple[ResponseKey, float]]) -> None:
        for key, count in counts.items():
            tags = self._tags | {"method": key.method}
            self._requests.inc(count, tags=tags | {"status_code": str(key.status)})
            if key.status >= _FIRST_ERROR:
                self._errors.inc(count, tags=tags | {"error_code": str(key.status)})
        for key, seconds in timed:
            tags = self._tags | {"method": key.method, "status_code": str(key.status)}
            self._latency.observe(seconds * 1e3, tags=tags)
