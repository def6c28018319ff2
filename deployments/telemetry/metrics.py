"""What a replica counts, as Ray metrics: in the dashboard, and for Prometheus.

To tell Ray costs several microseconds a call, more than to log the row. What is alike is therefore added up first, and
latencies are counted by bucket in a counter: Ray's histogram takes one observation at a time. Ray's agent exports

    ray_rayloop_requests_total, ray_rayloop_errors_total        by model, version, variant
    ray_rayloop_latency_ms_bucket_total                         the same, and ``le``, as of a Prometheus histogram
    ray_rayloop_latency_ms_sum_total                            milliseconds
    ray_rayloop_http_requests_total                             by model, method, status
    ray_rayloop_requests_under_way                              by model, replica: the queue
    ray_rayloop_log_dropped_rows_total, ray_rayloop_shadow_dropped_total        by model

so that ``histogram_quantile(0.99, sum by (le, model) (rate(ray_rayloop_latency_ms_bucket_total[5m])))`` is a model's p99. Requests of a model do not pass Serve (uvicorn_protocol.py), which would show none of them: they are
told under Serve's own names too, ``serve_num_http_requests`` and what else Ray's dashboard draws for an application.
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
    """Whose figure it is."""

    version: str
    variant: str


class ResponseKey(NamedTuple):
    """An HTTP answer, as it is counted."""

    method: str
    status: int


class MetricSums(NamedTuple):
    """Requests, failed requests, summed milliseconds, and requests by the place of their bucket in BUCKETS_MS."""

    requests: Counter[VariantKey]
    errors: Counter[VariantKey]
    latency_ms: dict[VariantKey, float]
    buckets: Counter[tuple[VariantKey, int]]


def sum_metrics(answers: Sequence[PredictionBatch]) -> MetricSums:
    """What answers add to the counters. A batch's latency is that of each of its requests."""
    made = MetricSums(Counter(), Counter(), defaultdict(float), Counter())
    for answer in answers:
        requests, who = len(answer.requests), VariantKey(answer.version, answer.variant)
        made.requests[who] += requests
        if answer.latency_ms is not None:
            made.latency_ms[who] += requests * answer.latency_ms
            made.buckets[who, bisect_left(BUCKETS_MS, answer.latency_ms)] += requests
        if answer.error:
            made.errors[VariantKey(answer.challenger_version or answer.version, CHALLENGER)] += requests
        if answer.champion_error:
            made.errors[VariantKey(answer.champion_version, CHAMPION)] += requests
    return made


def cumulative_buckets(buckets: Mapping[tuple[VariantKey, int], int]) -> Iterator[tuple[VariantKey, str, int]]:
    """Requests of at most each bound, as Prometheus has it: who, ``le``, how many."""
    for who in {who for who, _ in buckets}:
        below = 0
        for place, bound in enumerate(_BOUNDS):
            below += buckets.get((who, place), 0)
            if below:
                yield who, bound, below


class ReplicaMetrics:
    """The counters of one model in this process."""

    def __init__(self, model: str, replica: str) -> None:
        tags = ("model", "version", "variant")
        self._model = model
        self._replica = replica
        self._under_way = metrics.Gauge(
            "rayloop_requests_under_way", "Requests that are answered or wait, every half second.", ("model", "replica")
        )
        self._requests = metrics.Counter("rayloop_requests", "Requests answered.", tags)
        self._replies = metrics.Counter("rayloop_http_requests", "HTTP answers.", ("model", "method", "status"))
        self._serves = _ServeMetrics(model)
        self._errors = metrics.Counter("rayloop_errors", "Requests that the variant failed.", tags)
        self._buckets = metrics.Counter(
            "rayloop_latency_ms_bucket", "Requests whose features and model took at most so long.", (*tags, "le")
        )
        self._latency = metrics.Counter("rayloop_latency_ms_sum", "Milliseconds for features and model.", tags)
        self._dropped = metrics.Counter(
            "rayloop_log_dropped_rows", "Log rows given up, buffers being full.", ("model",)
        )
        self._unshadowed = metrics.Counter(
            "rayloop_shadow_dropped", "Requests not copied to the challenger.", ("model",)
        )

    def record_predictions(self, answers: Sequence[PredictionBatch]) -> None:
        """Count answers."""
        of = sum_metrics(answers)
        told: list[tuple[metrics.Counter, Mapping[VariantKey, float]]] = [
            (self._requests, of.requests),
            (self._errors, of.errors),
            (self._latency, of.latency_ms),
        ]
        for counter, counts in told:
            for who, count in counts.items():
                # Ray takes no zero.
                if count > 0:
                    counter.inc(count, tags=self._tags(who))
        for who, bound, count in cumulative_buckets(of.buckets):
            self._buckets.inc(count, tags=self._tags(who) | {"le": bound})

    def record_responses(self, replies: Mapping[ResponseKey, int], timed: Sequence[tuple[ResponseKey, float]]) -> None:
        """Count HTTP answers; ``timed`` are some of them with their seconds."""
        for reply, times in replies.items():
            tags = {"model": self._model, "method": reply.method, "status": str(reply.status)}
            self._replies.inc(times, tags=tags)
        self._serves.record_responses(replies, timed)

    def under_way(self, requests: int) -> None:
        """Show how many there are now."""
        self._under_way.set(requests, {"model": self._model, "replica": self._replica})

    def dropped(self, rows: int) -> None:
        """Count log rows given up."""
        if rows:
            self._dropped.inc(rows, tags={"model": self._model})

    def unshadowed(self, requests: int) -> None:
        """Count requests not copied."""
        if requests:
            self._unshadowed.inc(requests, tags={"model": self._model})

    def _tags(self, who: VariantKey) -> dict[str, str]:
        return {"model": self._model, "version": who.version, "variant": who.variant}


class _ServeMetrics:
    """What Serve counts of the requests that pass it, under the same names: Ray's dashboard draws them."""

    def __init__(self, model: str) -> None:
        tags = ("route", "method", "application")
        self._where = {"route": f"/v2/models/{model}", "application": model_app_name(model)}
        self._requests = metrics.Counter("serve_num_http_requests", "HTTP requests.", (*tags, "status_code"))
        self._errors = metrics.Counter("serve_num_http_error_requests", "HTTP errors.", (*tags, "error_code"))
        self._latency = metrics.Histogram(
            "serve_http_request_latency_ms", "Milliseconds for an HTTP request, of a sample.",
            REQUEST_LATENCY_BUCKETS_MS, (*tags, "status_code"),
        )  # fmt: skip

    def record_responses(self, replies: Mapping[ResponseKey, int], timed: Sequence[tuple[ResponseKey, float]]) -> None:
        for reply, times in replies.items():
            tags = self._where | {"method": reply.method}
            self._requests.inc(times, tags=tags | {"status_code": str(reply.status)})
            if reply.status >= _FIRST_ERROR:
                self._errors.inc(times, tags=tags | {"error_code": str(reply.status)})
        for reply, seconds in timed:
            tags = self._where | {"method": reply.method, "status_code": str(reply.status)}
            self._latency.observe(seconds * 1e3, tags=tags)
