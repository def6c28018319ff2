"""Metrics for Prometheus: their names, and their values from a window, an analysis, and resource usage. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from monitoring.analysis.group_disparity import GroupDisparity
from monitoring.analysis.log_analysis import AnalysisResult, WindowQuality
from monitoring.detection.detector import ColumnResult, WindowResult
from monitoring.drift_policy import WEIGHTS, DriftPolicy
from monitoring.export.cost import ResourcePrices, UsageTotals, total_cost

_WINDOW = ("model", "version")
_COLUMN = (*_WINDOW, "column")
_SEGMENT = (*_WINDOW, "segment")
_LIMIT = (*_WINDOW, "limit")

_COLUMNS: dict[str, tuple[str, Callable[[ColumnResult], float]]] = {
    "rayloop_drift_ratio": ("Distance from the reference divided by its threshold; 1 is too far", lambda c: c.ratio),
    "rayloop_drift_distance": ("Largest difference in the share of rows, 0 to 1", lambda c: c.distances.statistic),
    "rayloop_drift_psi": ("Population stability index", lambda c: c.distances.psi),
    "rayloop_drift_missing_difference": ("Share of missing cells less the reference's", lambda c: c.distances.nulls),
    "rayloop_drift_new_share": ("Share of category values unknown to the reference", lambda c: c.distances.new),
}
_LOSSES: dict[str, tuple[str, Callable[[WindowQuality], float | None]]] = {
    "rayloop_loss": ("Mean labeled loss of the newest window with labels", lambda q: q.labeled.mean),
    "rayloop_loss_low": ("Its lower bound, valid at every analysis", lambda q: q.limits.low if q.limits else None),
    "rayloop_loss_high": ("Its upper bound, valid at every analysis", lambda q: q.limits.high if q.limits else None),
    "rayloop_loss_reference": ("Mean loss of held-out rows", lambda q: q.reference),
    "rayloop_loss_worse": (
        "1 while the loss exceeds the reference and its margin with confidence",
        lambda q: float(q.worse),
    ),
    "rayloop_label_share": ("Share of the window's rows whose labels have arrived", lambda q: q.labeled.share),
}
_DISPARITIES: dict[str, tuple[str, Callable[[GroupDisparity], float]]] = {
    "rayloop_disparity": ("Largest difference of a rate between groups", lambda d: d.difference),
    "rayloop_disparity_low": ("Its lower bound, valid at every analysis", lambda d: d.low),
    "rayloop_disparity_allowed": ("The largest difference that is allowed", lambda d: d.limit),
    "rayloop_disparity_exceeded": ("1 while it exceeds its limit with confidence", lambda d: float(d.exceeded)),
}
USAGE_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rayloop_replicas": ("Replicas that reported lately", ("model",)),
    "rayloop_cost": ("Cost of reserved CPUs, GPUs and memory so far, by declared tag", ("model", "tag", "value")),
    "rayloop_cpu_seconds": ("CPU time: reserved for the model's replicas, and used by them", ("model", "kind")),
    "rayloop_gpu_seconds": ("GPU time reserved for the model's replicas", ("model",)),
}
"""Reported every few seconds while there are replicas; all others persist until there is a newer value."""
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (description, _COLUMN) for name, (description, _) in _COLUMNS.items()},
    "rayloop_drift_window_rows": ("Rows in the newest run of windows", _WINDOW),
    "rayloop_drift_window_start_seconds": ("Event time at which the newest closed window starts", _WINDOW),
    "rayloop_drift_drifting": ("1 from an alarm until traffic has been quiet for long enough", _WINDOW),
    **{name: (description, _SEGMENT) for name, (description, _) in _LOSSES.items()},
    **{name: (description, _LIMIT) for name, (description, _) in _DISPARITIES.items()},
    "rayloop_look_auc": (
        "AUC of a classifier that separates live rows from training rows; 0.5 is no difference",
        _WINDOW,
    ),
    "rayloop_segment_ratio": ("Largest distance over its threshold among a segment's monitored columns", _SEGMENT),
    "rayloop_label_drift_ratio": ("Distance of the labels over its threshold", _WINDOW),
    "rayloop_estimated": ("Metric of the newest window, estimated without labels", (*_WINDOW, "method", "metric")),
    "rayloop_estimated_low": ("Lower limit of that estimate, by all methods", (*_WINDOW, "metric")),
    "rayloop_estimated_high": ("Its upper limit", (*_WINDOW, "metric")),
    "rayloop_observed": ("Metric of the newest window with labels", (*_WINDOW, "metric")),
    "rayloop_false_alarms_expected": ("False alarms of a kind expected in 30 days, at most", (*_WINDOW, "kind")),
    **USAGE_GAUGES,
}
COUNTERS = {
    "windows": ("rayloop_drift_windows", "Windows closed"),
    "alarms": ("rayloop_drift_alarms", "Alarms raised"),
    "actions": ("rayloop_drift_actions", "Actions taken on alarms"),
    "looks": ("rayloop_drift_looks", "Analyses of logged rows"),
    "rejected": ("rayloop_drift_rejected_profiles", "Live profiles that were rejected"),
    "failures": ("rayloop_drift_failures", "Failures that the monitor recovered from"),
    "missed": ("rayloop_retrains_missed", "Retrainings of schedules that did not start in time, a pause aside"),
    "withheld": ("rayloop_retrains_withheld", "Retrainings that were due and beyond the budget"),
    "failed": ("rayloop_retrains_failed", "Retrainings that failed, or whose candidate failed the gate"),
}


class MetricValue(NamedTuple):
    """A value of a gauge; ``labels`` in the order of GAUGES."""

    name: str
    labels: tuple[str, ...]
    value: float


def version_metrics(model: str, version: str) -> Iterator[MetricValue]:
    """Metrics behind alerts, for a version without results: alerts about the version before it end."""
    yield MetricValue("rayloop_drift_drifting", (model, version), 0.0)
    yield MetricValue("rayloop_loss_worse", (model, version, ""), 0.0)


def policy_metrics(model: str, version: str, policy: DriftPolicy) -> Iterator[MetricValue]:
    """Metrics of a policy: how its false alarms are divided, and limits that nothing has exceeded yet."""
    for kind in WEIGHTS:
        yield MetricValue("rayloop_false_alarms_expected", (model, version, kind), policy.monthly(kind))
    for limit in policy.log_analysis.disparity if policy.log_analysis else ():
        yield MetricValue("rayloop_disparity_exceeded", (model, version, limit.name), 0.0)


def window_metrics(model: str, result: WindowResult, drifting: bool) -> Iterator[MetricValue]:
    """Metrics of a closed window; ``drifting`` says whether an episode is open."""
    at = (model, result.version)
    yield MetricValue("rayloop_drift_window_rows", at, result.rows)
    yield MetricValue("rayloop_drift_window_start_seconds", at, result.window)
    yield MetricValue("rayloop_drift_drifting", at, float(drifting))
    for name, (_, read) in _COLUMNS.items():
        for column, column_result in result.columns.items():
            yield MetricValue(name, (*at, column), read(column_result))


def analysis_metrics(model: str, result: AnalysisResult) -> Iterator[MetricValue]:
    """Metrics of an analysis of logged rows."""
    at = (model, result.version)
    if result.multivariate is not None:
        yield MetricValue("rayloop_look_auc", at, result.multivariate.separation.auc)
    for name, segment in result.segments.items():
        yield MetricValue("rayloop_segment_ratio", (*at, name), _largest_ratio(segment))
    if result.labels is not None:
        yield MetricValue("rayloop_label_drift_ratio", at, _largest_ratio(result.labels))
    for disparity in result.disparities:
        for metric, (_, show) in _DISPARITIES.items():
            yield MetricValue(metric, (*at, disparity.name), show(disparity))
    newest = {q.segment: q for q in result.quality if q.labeled.n}
    for name, quality in newest.items():
        for metric, (_, read) in _LOSSES.items():
            if (value := read(quality)) is not None:
                yield MetricValue(metric, (*at, name), value)
    for metric, value in newest[""].observed.items() if "" in newest else ():
        yield MetricValue("rayloop_observed", (*at, metric), value)
    yield from _estimate_metrics(at, result.quality)


def _estimate_metrics(at: tuple[str, str], quality: Sequence[WindowQuality]) -> Iterator[MetricValue]:
    """The newest window's estimates and their intervals. A refused one has no limits: they are NaN, not older ones."""
    newest = next((q for q in reversed(quality) if not q.segment and q.estimated), None)
    if newest is None:
        return
    for method, metrics in newest.estimated.items():
        for metric, value in metrics.items():
            yield MetricValue("rayloop_estimated", (*at, method, metric), value)
    intervals = newest.estimate.intervals if newest.estimate is not None else {}
    for metric in ("accuracy", "brier", "mae"):
        if any(metric in metrics for metrics in newest.estimated.values()):
            interval = intervals.get(metric)
            low, high = (interval.low, interval.high) if interval is not None else (math.nan, math.nan)
            yield MetricValue("rayloop_estimated_low", (*at, metric), low)
            yield MetricValue("rayloop_estimated_high", (*at, metric), high)


def usage_metrics(
    model: str, usage: UsageTotals, replicas: int, tags: Mapping[str, str], prices: ResourcePrices
) -> Iterator[MetricValue]:
    """Metrics of the resources that a model's replicas use.

    Args:
        model: Name of the model.
        usage: Sums so far.
        replicas: Replicas that reported recently.
        tags: Tags that the cost is also reported by.
        prices: Prices of resources.
    """
    yield MetricValue("rayloop_replicas", (model,), replicas)
    yield MetricValue("rayloop_cpu_seconds", (model, "reserved"), usage.reserved_cpu_s)
    yield MetricValue("rayloop_cpu_seconds", (model, "used"), usage.cpu_s)
    yield MetricValue("rayloop_gpu_seconds", (model,), usage.reserved_gpu_s)
    for tag, value in {"": "", **tags}.items():
        yield MetricValue("rayloop_cost", (model, tag, value), total_cost(usage, prices))


def _largest_ratio(result: WindowResult) -> float:
    return max((c.ratio for c in result.columns.values() if c.watched), default=0.0)
