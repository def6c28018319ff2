"""Analyze the logged rows of closed windows: what profiles cannot show, and what labels show. Pure.

    multivariate   a classifier that separates the newest run from training rows, and the features it uses
    segment        drift within declared segments of the traffic, each against its own past
    labels         drift of the labels
    estimate       performance without labels, window by window, next to the observed one once labels have arrived
    quality        the labeled loss of each window and segment, with bounds that hold at every analysis
    fairness       rates of groups, whose differences have limits

It takes values and returns a value; a Ray task runs it (rayloop/stages/log_analysis_task.py), never a request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from cluster.errors import DataError
from cluster.values import AlarmKind, Frozen, Task, stored_name
from features.definitions import Column
from monitoring.analysis.group_disparity import GroupDisparity, measure_disparities
from monitoring.analysis.multivariate_drift import MultivariateDrift, measure_multivariate_drift
from monitoring.analysis.segment_drift import ReferenceRows, evaluate_labels, evaluate_segments, segment_values
from monitoring.analysis.window_estimate import NewestEstimate, estimate_newest
from monitoring.detection.detector import WindowResult, format_day, format_span
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.performance import estimator as performance
from monitoring.performance.estimate_intervals import WindowEstimate
from monitoring.performance.estimator import Metrics, PerformanceEstimator
from monitoring.performance.loss_bounds import LabeledLoss, LossBounds, bound_loss, is_worse, ordinary_loss
from monitoring.retraining.retrain_gain import WindowGain
from monitoring.samples.logged_rows import LoggedRows

MAX_NAMED_COLUMNS = 3
"""Columns that a reason sentence names."""
ALL_TRAFFIC = ""
"""Name of the segment that contains all traffic."""


class AnalysisRequest(Frozen):
    """Which windows to analyze."""

    model: str
    version: str
    windows: tuple[float, ...] = Field(min_length=1)
    """Starts of the windows, ascending, seconds since the epoch."""
    since: float
    """Start of the newest run of windows."""
    policy: DriftPolicy
    ordinary: tuple[float, ...] = ()
    """AUCs of the reference's own runs, once they are known."""

    @property
    def window(self) -> float:
        """Start of the newest window."""
        return self.windows[-1]

    @property
    def until(self) -> float:
        """End of the newest window."""
        return self.window + self.policy.window_s

    @property
    def settings(self) -> LogAnalysisPolicy:
        """What to look for."""
        return self.policy.log_analysis or LogAnalysisPolicy()


class WindowQuality(Frozen):
    """Performance in one window, of all traffic or of a segment ("carrier = AA")."""

    version: str
    window: float
    segment: str = ALL_TRAFFIC
    labeled: Annotated[LabeledLoss, stored_name("labeled", "labelled")]
    """Loss of the rows whose labels have arrived."""
    limits: LossBounds | None = None
    """Bounds of the loss; None with too few labels."""
    reference: float | None = None
    """Mean loss of held-out rows."""
    allowed: float | None = None
    """What the loss must exceed: that of ordinary windows, and the reference plus the margin."""
    worse: bool = False
    """The loss exceeds the allowed one with confidence."""
    observed: Metrics = Field(default_factory=dict)
    estimated: dict[str, Metrics] = Field(default_factory=dict)
    """Estimated metrics by method."""
    estimate: WindowEstimate | None = None
    """Intervals of the estimate, or why there are none; since the window was the newest."""


class Finding(Frozen):
    """A reason for an alarm, in one window."""

    kind: AlarmKind
    window: float
    reason: str
    features: dict[str, float] = Field(default_factory=dict)
    name: str = ""
    """Distinguishes findings of one kind: the segment, or the limit of a disparity."""


class LabelCandidate(Frozen):
    """A logged row whose label would be informative."""

    id: str
    expected_loss: Annotated[float, stored_name("expected_loss", "worth")]


class AnalysisResult(Frozen):
    """What an analysis found."""

    version: str
    window: float
    since: float
    rows: int
    multivariate: MultivariateDrift | None = None
    segments: dict[str, WindowResult] = Field(default_factory=dict)
    labels: WindowResult | None = None
    quality: tuple[WindowQuality, ...] = ()
    label_candidates: Annotated[tuple[LabelCandidate, ...], stored_name("label_candidates", "wanted")] = ()
    findings: tuple[Finding, ...] = ()
    gains: tuple[WindowGain, ...] = ()
    """Of a retrained version: losses of each window, against the version that it replaced."""
    disparities: tuple[GroupDisparity, ...] = ()
    """Rates of groups, for each limit."""
    faults: tuple[str, ...] = ()
    """Parts that could not be analyzed, and why."""


def analyze(
    request: AnalysisRequest, task: Task, columns: Sequence[Column], past: ReferenceRows, live: LoggedRows
) -> AnalysisResult:
    """Analyze logged rows.

    Args:
        request: Windows and policy.
        task: Task of the model.
        columns: Features.
        past: Rows of the version's training frame.
        live: Logged rows of the requested windows.
    """
    run = live.between(request.since, request.until)
    faults: list[str] = []
    estimator, multivariate = None, None
    try:
        estimator = PerformanceEstimator(task, past.held_out, columns)
    except DataError as error:
        faults.append(f"performance is not estimated: {error}")
    try:
        if "multivariate" in request.policy.kinds:
            multivariate = measure_multivariate_drift(
                past.train, run, columns, request.policy, request.settings, request.ordinary
            )
    except DataError as error:
        faults.append(f"multivariate drift is not measured: {error}")
    windows = [(start, live.between(start, start + request.policy.window_s)) for start in request.windows]
    newest = NewestEstimate()
    try:
        if estimator is not None:
            live_windows = [rows for _, rows in windows]
            newest = estimate_newest(estimator, past.held_out, live_windows, request.policy, request.settings)
    except DataError as error:
        faults.append(f"performance is not estimated: {error}")
    quality = tuple(_measure_quality(request, task, past, windows, estimator, newest))
    result = AnalysisResult(
        version=request.version,
        window=request.window,
        since=request.since,
        rows=len(run),
        multivariate=multivariate,
        segments=evaluate_segments(past, run, task, columns, request.policy, request.settings),
        labels=evaluate_labels(past, run, task, request.policy),
        quality=quality,
        label_candidates=_label_candidates(request, windows[-1][1], estimator),
        disparities=measure_disparities(windows, task, request.policy, request.settings),
        faults=tuple(faults),
    )
    findings = (*_findings(result), *_estimate_findings(request, newest, len(windows[-1][1])))
    return result.model_copy(update={"findings": findings})


def _measure_quality(
    request: AnalysisRequest,
    task: Task,
    past: ReferenceRows,
    windows: Sequence[tuple[float, LoggedRows]],
    estimator: PerformanceEstimator | None,
    newest: NewestEstimate,
) -> Iterator[WindowQuality]:
    segments = [(f"{column} = {value}", column, value) for column, value in segment_values(past, request.settings)]
    parts = [(ALL_TRAFFIC, "", ""), *segments]
    level = request.policy.level("quality") / len(parts)
    # While quality raises no alarms, its bounds are shown all the same.
    alpha = level or request.settings.alpha / len(parts)
    for name, column, value in parts:
        held_out = past.held_out.with_value(column, value) if name else past.held_out
        reference = _reference_loss(task, held_out)
        allowed = None if reference is None else _allowed_loss(request, task, held_out, reference, alpha)
        for start, window_rows in windows:
            rows = window_rows.with_value(column, value) if name else window_rows
            if not len(rows):
                continue
            labeled = LabeledLoss.from_losses(performance.row_losses(task, rows), len(rows))
            bounds = bound_loss(labeled, alpha)
            estimates = {} if name or estimator is None else estimator.estimate(rows)
            is_newest = not name and start == request.window
            yield WindowQuality(
                version=request.version,
                window=start,
                segment=name,
                labeled=labeled,
                limits=bounds if math.isfinite(bounds.low) else None,
                reference=reference,
                allowed=allowed,
                # Half of the level each: that the loss's bound fails, and that an ordinary window has more than this.
                worse=bool(level) and allowed is not None and is_worse(labeled, allowed, alpha / 2),
                observed=performance.observed_metrics(task, rows),
                estimated=estimates | newest.metrics if is_newest else estimates,
                estimate=newest.estimate if is_newest else None,
            )


def _reference_loss(task: Task, rows: LoggedRows) -> float | None:
    labeled = rows.labeled_rows
    return float(performance.row_losses(task, labeled).mean()) if len(labeled) >= performance.MIN_LABELED_ROWS else None


def _allowed_loss(request: AnalysisRequest, task: Task, rows: LoggedRows, reference: float, alpha: float) -> float:
    losses, starts = performance.row_losses(task, rows), np.floor(rows.times / request.policy.window_s)
    windows = [LabeledLoss.from_losses(losses[starts == start]) for start in np.unique(starts)]
    return max(ordinary_loss(windows, alpha / 2), reference * (1.0 + request.settings.margin))


def _estimate_findings(request: AnalysisRequest, newest: NewestEstimate, rows: int) -> Iterator[Finding]:
    worse = newest.worse
    if worse is None:
        return
    yield Finding(
        kind="estimate",
        window=request.window,
        reason=(
            f"{format_day(request.window)}, {rows:,} rows: the {worse.metric}, estimated without labels, is "
            f"{worse.value:.3g}; {worse.limit:.3g} is allowed, {worse.windows} held-out windows have {worse.usual:.3g}"
        ),
        features={worse.metric: worse.value / worse.limit},
    )


def _label_candidates(
    request: AnalysisRequest, newest: LoggedRows, estimator: PerformanceEstimator | None
) -> tuple[LabelCandidate, ...]:
    unlabeled = newest.select(~np.isfinite(newest.labels))
    if estimator is None or not len(unlabeled) or not request.settings.to_label:
        return ()
    losses = estimator.expected_losses(unlabeled)
    largest = np.argsort(-losses, kind="stable")[: request.settings.to_label]
    return tuple(LabelCandidate(id=str(unlabeled.ids[i]), expected_loss=float(losses[i])) for i in largest)


def _findings(result: AnalysisResult) -> Iterator[Finding]:
    when = format_span(result.since, result.window)
    multivariate = result.multivariate
    if multivariate is not None and multivariate.drifted:
        ranked = dict(multivariate.separation.ranked[:MAX_NAMED_COLUMNS])
        by = ", ".join(f"{name} ({share:.0%})" for name, share in ranked.items())
        auc = f"AUC {multivariate.separation.auc:.2f} (p = {multivariate.p_value:.2g})"
        yield Finding(
            kind="multivariate",
            window=result.window,
            reason=f"{when}: a classifier separates these rows from training rows with {auc}, mainly by {by}",
            features=ranked,
        )
    for name, segment in result.segments.items():
        if segment.drifted:
            yield _drift_finding("segment", name, segment, f"{when}, {segment.rows:,} rows of {name}")
    if result.labels is not None and result.labels.drifted:
        yield _drift_finding("labels", "", result.labels, f"{when}, {result.labels.rows:,} labels")
    for quality in result.quality:
        if quality.worse and quality.limits is not None and quality.reference:
            yield _quality_finding(quality, quality.limits, quality.reference)
    for disparity in result.disparities:
        if disparity.exceeded:
            yield _fairness_finding(disparity, result.window)


def _fairness_finding(disparity: GroupDisparity, window: float) -> Finding:
    sides = ", ".join(
        f"{group} {disparity.groups[group].value:.3g} of {disparity.groups[group].rows:,} rows"
        for group in disparity.extremes
    )
    return Finding(
        kind="fairness",
        window=window,
        name=disparity.name,
        reason=(
            f"{format_span(disparity.since, window)}: the {disparity.name} differs by {disparity.difference:.3g}, at "
            f"least {disparity.low:.3g} with confidence, where {disparity.limit:.3g} is allowed: {sides}"
        ),
        features={disparity.name: disparity.low / disparity.limit},
    )


def _quality_finding(quality: WindowQuality, bounds: LossBounds, reference: float) -> Finding:
    labeled = quality.labeled
    where = f" of {quality.segment}" if quality.segment else ""
    loss = f"mean loss {labeled.mean:.3g}, at least {bounds.low:.3g} with confidence; {reference:.3g} on held-out rows"
    return Finding(
        kind="quality",
        window=quality.window,
        name=quality.segment,
        reason=f"{format_day(quality.window)}, {labeled.n:,} labels{where} ({labeled.share:.0%} of the rows): {loss}",
        features={"loss": bounds.low / reference},
    )


def _drift_finding(kind: AlarmKind, name: str, result: WindowResult, where: str) -> Finding:
    columns = {column: result.columns[column] for column in result.drifted}
    moved = "; ".join(
        f"{column}: {column_result.distances.statistic:.2f} of rows moved, p = {column_result.p_value:.2g}"
        for column, column_result in list(columns.items())[:MAX_NAMED_COLUMNS]
    )
    ratios = {column: column_result.ratio for column, column_result in columns.items()}
    return Finding(kind=kind, window=result.window, name=name, reason=f"{where}: {moved}", features=ratios)
