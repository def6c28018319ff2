"""Figures for Prometheus: their names, and what a window, a look, and a model's use of the cluster say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from monitoring.analysis.log_analysis import Looked, WindowQuality
from monitoring.detection.detector import ColumnResult, WindowResult
from monitoring.export.cost import Prices, Used, cost

_WINDOW = ("model", "version")
_COLUMN = (*_WINDOW, "column")
_SEGMENT = (*_WINDOW, "segment")

_COLUMNS: dict[str, tuple[str, Callable[[ColumnResult], float]]] = {
    "rayloop_drift_ratio": ("Distance from the reference divided by its threshold; 1 is too far", lambda c: c.ratio),
    "rayloop_drift_distance": ("Largest difference in the share of rows, 0 to 1", lambda c: c.distances.statistic),
    "rayloop_drift_psi": ("Population stability index", lambda c: c.distances.psi),
    "rayloop_drift_missing_difference": ("Share of missing cells less the reference's", lambda c: c.distances.nulls),
    "rayloop_drift_new_share": ("Share of category values unknown to the reference", lambda c: c.distances.new),
}
_LOSSES: dict[str, tuple[str, Callable[[WindowQuality], float | None]]] = {
    "rayloop_loss": ("Mean labelled loss of the newest window with labels", lambda q: q.labelled.mean),
    "rayloop_loss_low": ("Its lower limit, valid at every look", lambda q: q.limits.low if q.limits else None),
    "rayloop_loss_high": ("Its upper limit, valid at every look", lambda q: q.limits.high if q.limits else None),
    "rayloop_loss_reference": ("Mean loss of held-out rows", lambda q: q.reference),
    "rayloop_loss_worse": ("1 while the loss is above the reference and its margin for sure", lambda q: float(q.worse)),
    "rayloop_label_share": ("Share of the window's rows whose labels have come", lambda q: q.labelled.share),
}
USE: dict[str, tuple[str, tuple[str, ...]]] = {
    "rayloop_replicas": ("Replicas that have told of themselves lately", ("model",)),
    "rayloop_cost": ("Cost of reserved CPUs, GPUs and memory so far, by declared tag", ("model", "tag", "value")),
    "rayloop_cpu_seconds": ("CPU time: reserved for the model's replicas, and used by them", ("model", "kind")),
    "rayloop_gpu_seconds": ("GPU time reserved for the model's replicas", ("model",)),
}
"""Told every few seconds while there are replicas; all others stand for as long as nothing newer was found."""
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{name: (told, _COLUMN) for name, (told, _) in _COLUMNS.items()},
    "rayloop_drift_window_rows": ("Rows in the newest run of windows", _WINDOW),
    "rayloop_drift_window_start_seconds": ("Event time at which the newest closed window starts", _WINDOW),
    "rayloop_drift_drifting": ("1 from an alarm until traffic was quiet long enough", _WINDOW),
    **{name: (told, _SEGMENT) for name, (told, _) in _LOSSES.items()},
    "rayloop_look_auc": ("AUC of a classifier that tells live rows from training rows; 0.5 is no difference", _WINDOW),
    "rayloop_segment_ratio": ("Largest distance over its threshold among a segment's watched columns", _SEGMENT),
    "rayloop_label_drift_ratio": ("Distance of the labels over its threshold", _WINDOW),
    "rayloop_estimated": ("Metric of the newest window, estimated without labels", (*_WINDOW, "method", "metric")),
    "rayloop_observed": ("Metric of the newest window with labels", (*_WINDOW, "metric")),
    **USE,
}
COUNTERS = {
    "windows": ("rayloop_drift_windows", "Windows closed"),
    "alarms": ("rayloop_drift_alarms", "Alarms raised"),
    "actions": ("rayloop_drift_actions", "Actions taken on alarms"),
    "looks": ("rayloop_drift_looks", "Looks at logged rows"),
    "rejected": ("rayloop_drift_rejected_profiles", "Live profiles that could not be used"),
    "failures": ("rayloop_drift_failures", "Failures inside the monitor that it went on from"),
}


class Figure(NamedTuple):
    """A value of a gauge; ``labels`` in the order that GAUGES has them."""

    name: str
    labels: tuple[str, ...]
    value: float


def of_version(model: str, version: str) -> Iterator[Figure]:
    """What alerts stand on, of a version that nothing is known of yet: those of the version before it are over."""
    yield Figure("rayloop_drift_drifting", (model, version), 0.0)
    yield Figure("rayloop_loss_worse", (model, version, ""), 0.0)


def of_window(model: str, result: WindowResult, drifting: bool) -> Iterator[Figure]:
    at = (model, result.version)
    yield Figure("rayloop_drift_window_rows", at, result.rows)
    yield Figure("rayloop_drift_window_start_seconds", at, result.window)
    yield Figure("rayloop_drift_drifting", at, float(drifting))
    for name, (_, read) in _COLUMNS.items():
        for column, found in result.columns.items():
            yield Figure(name, (*at, column), read(found))


def of_look(model: str, looked: Looked) -> Iterator[Figure]:
    at = (model, looked.version)
    if looked.multivariate is not None:
        yield Figure("rayloop_look_auc", at, looked.multivariate.separation.auc)
    for name, result in looked.segments.items():
        yield Figure("rayloop_segment_ratio", (*at, name), _farthest(result))
    if looked.labels is not None:
        yield Figure("rayloop_label_drift_ratio", at, _farthest(looked.labels))
    newest = {q.segment: q for q in looked.quality if q.labelled.n}
    for segment, one in newest.items():
        for name, (_, read_loss) in _LOSSES.items():
            if (value := read_loss(one)) is not None:
                yield Figure(name, (*at, segment), value)
    for metric, value in newest[""].observed.items() if "" in newest else ():
        yield Figure("rayloop_observed", (*at, metric), value)
    estimated = next((q.estimated for q in reversed(looked.quality) if not q.segment and q.estimated), {})
    for method, metrics in estimated.items():
        for metric, value in metrics.items():
            yield Figure("rayloop_estimated", (*at, method, metric), value)


def of_use(model: str, used: Used, replicas: int, tags: Mapping[str, str], prices: Prices) -> Iterator[Figure]:
    yield Figure("rayloop_replicas", (model,), replicas)
    yield Figure("rayloop_cpu_seconds", (model, "reserved"), used.reserved_cpu_s)
    yield Figure("rayloop_cpu_seconds", (model, "used"), used.cpu_s)
    yield Figure("rayloop_gpu_seconds", (model,), used.reserved_gpu_s)
    for tag, value in {"": "", **tags}.items():
        yield Figure("rayloop_cost", (model, tag, value), cost(used, prices))


def _farthest(result: WindowResult) -> float:
    return max((c.ratio for c in result.columns.values() if c.watched), default=0.0)
