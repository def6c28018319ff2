"""Intervals of performance without labels, or the reason why there is none. Pure.

The interval is for what the window's labels will show: the mean of a metric over rows. Its variance has three parts:

labels       given their probabilities, the window's labels are random: what this exceeds that of held-out windows by
learning     what is learned from the reference is uncertain: a jackknife that leaves out groups of windows (Quenouille
             1956; Tukey 1958), on the window's own rows, so that it grows where the reference is thin
windows      the relation of scores and labels differs between ordinary windows: the residuals of held-out windows under
             fits without them, which contain the randomness of their labels

with Student's t by the number of windows. Several methods are right under different shifts, and nothing but labels can
tell which shift it is: the interval covers all of them.

CBPE, DLE    the same labels given the score (given the inputs, for regression)
PAPE         covariate shift: the same labels given the inputs, within the reference's support
prior        prior shift: the same inputs given the label (Saerens, Latinne, Decaestecker, "Adjusting the outputs of a
             classifier to new a priori probabilities", Neural Computation 14(1), 2002); binary tasks

A change of labels given inputs leaves no trace in inputs and scores: no interval without labels covers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy.special import stdtrit

from cluster.errors import DataError
from cluster.values import Frozen
from monitoring.performance.cbpe import at_prior, estimate_prior
from monitoring.performance.estimator import Adaptation, PerformanceEstimator, RowMetrics, observed_metrics
from monitoring.performance.loss_bounds import MIN_WINDOWS
from monitoring.samples.logged_rows import LoggedRows

CONFIDENCE = 0.95
CONTRADICTION = 0.01
"""Probability of a refusal because of labels that are as expected."""
GROUPS = 8
"""Groups of windows that are left out in turn."""
MAX_PRIOR_ERROR = 0.2
"""Root mean square error of the estimated share of positives, over held-out windows, beyond which scores tell too
little of it: the interval would span everything, and does not cover prior shift."""
MAX_OUTSIDE = 0.05
"""Share of rows outside the reference's support from which on an estimate is refused."""
MIN_COMPARABLE_ROWS = 100.0
"""Reference rows, in effect, that resemble the window's rows."""


class MetricInterval(Frozen):
    """A metric of a window without its labels."""

    value: float
    low: float
    high: float


class WindowEstimate(Frozen):
    """Intervals of a window's metrics, or why there are none."""

    confidence: float = CONFIDENCE
    intervals: dict[str, MetricInterval] = Field(default_factory=dict)
    """By metric, those that are means over rows."""
    code: str = ""
    """Error code of the refusal; empty where there are intervals."""
    reason: str = ""


Method = Callable[[PerformanceEstimator, LoggedRows], RowMetrics]
"""Metrics of each row by an estimator."""


@dataclass(frozen=True)
class Spread:
    """Where each method puts the mean of one metric.

    Attributes:
        centers: Mean of each method, the first one's is the estimate.
        deviations: Standard deviation of each.
        freedom: Degrees of freedom of Student's t.
    """

    centers: tuple[float, ...]
    deviations: tuple[float, ...]
    freedom: float

    def interval(self, alpha: float) -> MetricInterval:
        """What covers every method's mean with probability 1 - alpha."""
        centers, reach = np.array(self.centers), _student(self.freedom, alpha / 2.0) * np.array(self.deviations)
        low, high = float((centers - reach).min()), float((centers + reach).max())
        return MetricInterval(value=self.centers[0], low=low, high=high)


class IntervalEstimator:
    """Intervals of metrics without labels, from held-out windows.

    Attributes:
        whole: The estimator of all held-out rows.
        estimates: Estimates of each full held-out window, by metric, learned without it.
    """

    def __init__(self, whole: PerformanceEstimator, held_out: LoggedRows, window_s: float, least: int) -> None:
        """Fit an estimator without each group of windows.

        Args:
            whole: The estimator of all held-out rows.
            held_out: These rows.
            window_s: Seconds in a window.
            least: Rows of a window, at least; thinner ones are learned from, but their residuals do not count.

        Raises:
            DataError: There are too few labeled rows or windows.
        """
        rows = held_out.labeled_rows
        starts = np.floor(rows.times / window_s)
        windows, counts = np.unique(starts, return_counts=True)
        full = np.flatnonzero(counts >= least)
        if len(full) < MIN_WINDOWS:
            raise DataError("data.too_few_windows", windows=len(full), minimum=MIN_WINDOWS)
        self.whole = whole
        groups = np.searchsorted(windows, starts) % min(GROUPS, len(windows))
        self._folds = [
            PerformanceEstimator(whole.task, rows.select(groups != g), whole.columns) for g in np.unique(groups)
        ]
        parts = [(rows.select(starts == windows[i]), self._folds[i % len(self._folds)]) for i in full]
        self._methods: tuple[Method, ...] = (_as_scored,)
        if whole.task.kind == "binary" and _prior_error(parts) <= MAX_PRIOR_ERROR:
            self._methods = (_as_scored, _under_prior_shift)
        self._residuals = [_residuals(method, parts) for method in self._methods]
        scored = [_as_scored(fold, part) for part, fold in parts]
        self.estimates = {name: np.array([float(each[name][0].mean()) for each in scored]) for name in scored[0]}

    def usual(self, metric: str, alpha: float) -> tuple[float, float, float]:
        """Mean of the estimates of held-out windows, and limits that one more exceeds with probability alpha each."""
        estimates = self.estimates[metric]
        spread = float(estimates.std(ddof=1)) * math.sqrt(1.0 + 1.0 / len(estimates))
        mean, reach = float(estimates.mean()), _student(len(estimates) - 1.0, alpha) * spread
        return mean, mean - reach, mean + reach

    def spreads(self, live: LoggedRows, adapted: Adaptation | None = None) -> dict[str, Spread]:
        """Where each method puts the window's metrics.

        Args:
            live: Rows of the window.
            adapted: Reference rows weighted to resemble it; None leaves PAPE and the check of support out.

        Raises:
            DataError: The window left the reference.
        """
        found = []
        for method, residuals in zip(self._methods, self._residuals, strict=True):
            left_out = [method(fold, live) for fold in self._folds]
            found.append(self._measure(method(self.whole, live), left_out, residuals, len(live)))
        if adapted is not None:
            _require_support(adapted)
            if self.whole.task.kind != "regression":
                left_out = [self.whole.row_metrics(live, each) for each in adapted.without_groups(GROUPS)]
                metrics = self.whole.row_metrics(live, adapted.calibrator)
                found.append(self._measure(metrics, left_out, self._residuals[0], len(live)))
        spreads = {}
        for name, estimates in self.estimates.items():
            centers, deviations = zip(*(each[name] for each in found), strict=True)
            spreads[name] = Spread(centers, deviations, len(estimates) - 1.0)
        return spreads

    def contradiction(self, windows: Sequence[LoggedRows], least: int) -> DataError | None:
        """Labels of live windows that the estimates of these windows do not cover.

        Args:
            windows: Live rows of each window.
            least: Labeled rows of a window, at least.

        Returns:
            The refusal; None while labels are as expected.
        """
        labeled = [rows for rows in (each.labeled_rows for each in windows) if len(rows) >= least]
        for rows in labeled:
            truth = observed_metrics(self.whole.task, rows)
            for name, spread in self.spreads(rows).items():
                interval = spread.interval(CONTRADICTION / len(labeled) / len(self.estimates))
                if not interval.low <= truth[name] <= interval.high:
                    return DataError(
                        "data.estimate_contradicted",
                        metric=name,
                        observed=f"{truth[name]:.3g}",
                        low=f"{interval.low:.3g}",
                        high=f"{interval.high:.3g}",
                        labels=len(rows),
                    )
        return None

    def _measure(
        self, whole: RowMetrics, left_out: Sequence[RowMetrics], residuals: dict[str, tuple[float, float]], rows: int
    ) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each metric by one method."""
        measured = {}
        for name, (means, variances) in whole.items():
            others = np.array([each[name][0].mean() for each in left_out])
            learning = (len(others) - 1) / len(others) * float(np.square(others - others.mean()).sum())
            windows, labels = residuals[name]
            own = windows * (1.0 + 1.0 / len(self.estimates[name]))
            more = max(0.0, float(variances.mean()) / rows - labels)
            measured[name] = (float(means.mean()), math.sqrt(own + more + learning))
        return measured


def _as_scored(estimator: PerformanceEstimator, rows: LoggedRows) -> RowMetrics:
    return estimator.row_metrics(rows)


def _under_prior_shift(estimator: PerformanceEstimator, rows: LoggedRows) -> RowMetrics:
    chances = estimator.chances(rows)
    # Not 0 or 1, where every row would be certain.
    share = min(0.999, max(0.001, estimate_prior(chances, estimator.prior)))
    return estimator.metrics_at(rows, at_prior(chances, estimator.prior, share))


def _prior_error(parts: Sequence[tuple[LoggedRows, PerformanceEstimator]]) -> float:
    errors = [estimate_prior(fold.chances(rows), fold.prior) - rows.labels.mean() for rows, fold in parts]
    return float(np.sqrt(np.mean(np.square(errors))))


def _residuals(
    method: Method, parts: Sequence[tuple[LoggedRows, PerformanceEstimator]]
) -> dict[str, tuple[float, float]]:
    """For each metric, the mean square of observed less estimated over windows, and the part of it that labels make."""
    squares: dict[str, list[tuple[float, float]]] = {}
    for rows, estimator in parts:
        truth = observed_metrics(estimator.task, rows)
        for name, (means, variances) in method(estimator, rows).items():
            square = (truth[name] - float(means.mean())) ** 2
            squares.setdefault(name, []).append((square, float(variances.mean()) / len(rows)))
    return {name: (float(np.mean([s for s, _ in v])), float(np.mean([w for _, w in v]))) for name, v in squares.items()}


def _require_support(adapted: Adaptation) -> None:
    if adapted.outside > MAX_OUTSIDE or adapted.comparable < MIN_COMPARABLE_ROWS:
        outside, comparable = f"{adapted.outside:.0%}", f"{adapted.comparable:.0f}"
        raise DataError("data.estimate_outside_reference", outside=outside, comparable=comparable)


def _student(freedom: float, alpha: float) -> float:
    """What Student's t exceeds with probability alpha."""
    return float(stdtrit(freedom, 1.0 - alpha))
