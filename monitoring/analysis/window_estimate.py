"""Performance of the newest window without labels: estimates, an interval, and whether it is worse. Pure.

The estimate is worse when it is above what one more held-out window has, at the level of its kind of alarm, and above
their mean by the margin. PAPE has no part in that: what it says of held-out windows is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.errors import DataError
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from monitoring.performance import estimator as performance
from monitoring.performance.estimate_intervals import CONFIDENCE, IntervalEstimator, WindowEstimate
from monitoring.performance.estimator import Adaptation, Metrics, PerformanceEstimator
from monitoring.samples.logged_rows import LoggedRows


@dataclass(frozen=True)
class WorseLoss:
    """An estimated loss that is beyond that of held-out windows.

    Attributes:
        metric: Name of the loss.
        value: Its estimate.
        limit: What it exceeds.
        usual: Mean of held-out windows.
        windows: How many there are.
    """

    metric: str
    value: float
    limit: float
    usual: float
    windows: int


@dataclass(frozen=True)
class NewestEstimate:
    """What is known of the newest window without its labels.

    Attributes:
        metrics: Metrics by PAPE, where it applies.
        estimate: Intervals, or the refusal.
        worse: The loss, if it is worse.
    """

    metrics: dict[str, Metrics] = field(default_factory=dict)
    estimate: WindowEstimate | None = None
    worse: WorseLoss | None = None


def estimate_newest(
    estimator: PerformanceEstimator,
    held_out: LoggedRows,
    windows: Sequence[LoggedRows],
    policy: DriftPolicy,
    settings: LogAnalysisPolicy,
) -> NewestEstimate:
    """Estimate the newest of some live windows.

    Args:
        estimator: The estimator of held-out rows.
        held_out: These rows.
        windows: Live rows of each window, the newest last; labels of the others may contradict the estimate.
        policy: Windows and level.
        settings: Sample size and margin.

    Returns:
        The estimate; without an interval while the window has too few rows.
    """
    newest = windows[-1]
    if len(newest) < policy.min_rows:
        return NewestEstimate()
    adapted = estimator.adapt(newest, settings.sample)
    metrics = estimator.estimate_adapted(newest, adapted)
    try:
        intervals = IntervalEstimator(estimator, held_out, policy.window_s, policy.min_rows)
    except DataError as error:
        return NewestEstimate(metrics, _refusal(error))
    estimate = estimate_interval(intervals, windows, adapted)
    scored = next(iter(estimator.estimate(newest).values()))
    worse = None if estimate.code else worse_loss(intervals, scored, policy.level("estimate"), settings.margin)
    return NewestEstimate(metrics, estimate, worse)


def estimate_interval(
    intervals: IntervalEstimator, windows: Sequence[LoggedRows], adapted: Adaptation | None
) -> WindowEstimate:
    """Intervals of the newest of some live windows, or the refusal.

    Args:
        intervals: Held-out windows.
        windows: Live rows of each window, the newest last.
        adapted: Reference rows weighted to resemble the newest.
    """
    try:
        if (contradicted := intervals.contradiction(windows, performance.MIN_LABELED_ROWS)) is not None:
            return _refusal(contradicted)
        spreads = intervals.spreads(windows[-1], adapted)
    except DataError as error:
        return _refusal(error)
    alpha = 1.0 - CONFIDENCE
    return WindowEstimate(intervals={name: spread.interval(alpha) for name, spread in spreads.items()})


def _refusal(error: DataError) -> WindowEstimate:
    return WindowEstimate(code=error.code, reason=str(error))


def worse_loss(intervals: IntervalEstimator, estimates: Metrics, level: float, margin: float) -> WorseLoss | None:
    """The estimated loss of a window, if it is worse.

    Args:
        intervals: Held-out windows.
        estimates: Estimates of the window, as of these.
        level: Probability that an ordinary window is found worse, at most.
        margin: Increase over the mean of held-out windows that is allowed, as a share of it.
    """
    task = intervals.whole.task
    metric = "accuracy" if task.kind == "multiclass" else performance.loss_name(task)
    if not level:
        return None
    usual, low, limit = intervals.usual(metric, level)
    value, windows = estimates[metric], len(intervals.estimates[metric])
    if task.kind == "multiclass":
        metric, value, usual, limit = "error rate", 1.0 - value, 1.0 - usual, 1.0 - low
    limit = max(limit, usual * (1.0 + margin))
    return WorseLoss(metric, value, limit, usual, windows) if value > limit else None
