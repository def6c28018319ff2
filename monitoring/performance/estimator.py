"""Performance of a version over windows, by labels and without them, under the same metric names. Pure.

loss        of a row: Brier score for classifiers (Brier, "Verification of forecasts expressed in terms of probability",
            1950), the sum over classes where there are several; absolute error for regression
by labels   metrics of the rows whose labels have arrived
without     CBPE and PAPE for classifiers (monitoring/performance/cbpe.py), of the predicted class where there are
            several; DLE for regression (monitoring/performance/dle.py); learned on held-out rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import DataError
from cluster.row_losses import DECISION_THRESHOLD, PROBABILITY_FLOOR
from cluster.values import Task
from features.definitions import Column
from monitoring.performance.cbpe import Calibrator, classifier_performance
from monitoring.performance.dle import LossModel, observed_loss
from monitoring.samples.domain_classifier import DomainClassifier
from monitoring.samples.feature_matrix import build_matrices
from monitoring.samples.logged_rows import LoggedRows

Metrics = dict[str, float]
"""Metrics by name."""
RowMetrics = dict[str, tuple[np.ndarray, np.ndarray]]
"""By metric, of those that are means over rows: expected value of each row, [rows], and its variance, [rows]."""
MIN_LABELED_ROWS = 100
"""Labeled held-out rows below which nothing is learned from them."""


def loss_name(task: Task) -> str:
    """Name of the metric that is the mean loss."""
    return "mae" if task.kind == "regression" else "brier"


def row_losses(task: Task, rows: LoggedRows) -> np.ndarray:
    """Loss of each row, [n]; NaN without a label."""
    if task.kind == "regression":
        return np.asarray(np.abs(rows.scores - rows.labels))
    if task.kind == "binary":
        return np.asarray(np.square(rows.scores - rows.labels))
    known = np.isfinite(rows.labels)
    truth = np.eye(task.outputs)[np.where(known, rows.labels, 0).astype(np.int64)]
    return np.where(known, np.square(rows.scores - truth).sum(axis=1), np.nan)


def observed_metrics(task: Task, rows: LoggedRows) -> Metrics:
    """Metrics by labels; empty without any."""
    rows = rows.labeled_rows
    if not len(rows):
        return {}
    if task.kind == "regression":
        return observed_loss(rows.scores, rows.labels)
    if task.kind == "binary":
        return classifier_performance(rows.scores, rows.labels)
    return {"accuracy": float(_hits(rows).mean()), "brier": float(row_losses(task, rows).mean())}


@dataclass(frozen=True)
class Adaptation:
    """Reference rows weighted to resemble a window.

    Attributes:
        probabilities: The probability that is calibrated, of each reference row; the prediction, for regression.
        positives: Its outcome, of each; the label.
        weights: Density ratio at each.
        outside: Share of the window's rows where the reference has hardly any.
        comparable: Reference rows that the weighted ones are worth (Kish).
    """

    probabilities: np.ndarray
    positives: np.ndarray
    weights: np.ndarray
    outside: float
    comparable: float

    @property
    def calibrator(self) -> Calibrator:
        """PAPE's calibrator for the window."""
        return Calibrator(self.probabilities, self.positives, self.weights)

    def without_groups(self, groups: int) -> list[Calibrator]:
        """The calibrator without each of as many groups of reference rows."""
        group = np.arange(len(self.weights)) % groups
        kept = [group != g for g in range(groups)]
        return [Calibrator(self.probabilities[k], self.positives[k], self.weights[k]) for k in kept]


class PerformanceEstimator:
    """Estimates a version's performance without labels, from labeled held-out rows."""

    def __init__(self, task: Task, reference: LoggedRows, columns: Sequence[Column]) -> None:
        """Fit.

        Args:
            task: Task of the model.
            reference: Held-out rows; those with labels are used.
            columns: Features.

        Raises:
            DataError: There are fewer than MIN_LABELED_ROWS labeled rows, or their values are not usable.
        """
        self.task, self._reference, self.columns = task, reference.labeled_rows, columns
        rows = len(self._reference)
        if rows < MIN_LABELED_ROWS:
            raise DataError("data.too_few_labeled_rows", rows=rows, minimum=MIN_LABELED_ROWS)
        if task.kind == "regression":
            inputs, _, _ = build_matrices(self._reference.frame, self._reference.frame, columns)
            self._losses = LossModel(inputs, self._reference.scores, self._reference.labels)
        else:
            self._calibrator = Calibrator(self._probabilities(self._reference), self._positives(self._reference))

    def estimate(self, live: LoggedRows) -> dict[str, Metrics]:
        """Metrics by method: CBPE or DLE."""
        if self.task.kind == "regression":
            return {"DLE": self._losses.estimate(self._inputs(live), live.scores)}
        return {"CBPE": self._expected_metrics(live, self._calibrator)}

    def adapt(self, live: LoggedRows, sample: int) -> Adaptation | None:
        """Weight reference rows to resemble a window; None without a number or category.

        Args:
            live: Rows of the window.
            sample: Rows of each side that train the domain classifier.

        Raises:
            DataError: The window has too few rows.
        """
        rows, live_sample = self._reference.sample(sample), live.sample(sample)
        reference_inputs, live_inputs, names = build_matrices(rows.frame, live_sample.frame, self.columns)
        if not names:
            return None
        weights, outside = DomainClassifier(reference_inputs, live_inputs).densities()
        comparable = float(weights.sum() ** 2 / np.square(weights).sum())
        if self.task.kind == "regression":
            return Adaptation(rows.scores, rows.labels, weights, outside, comparable)
        return Adaptation(self._probabilities(rows), self._positives(rows), weights, outside, comparable)

    def estimate_adapted(self, live: LoggedRows, adaptation: Adaptation | None) -> dict[str, Metrics]:
        """Metrics by PAPE; empty for regression, and without an adaptation to the window."""
        if self.task.kind == "regression" or adaptation is None:
            return {}
        return {"PAPE": self._expected_metrics(live, adaptation.calibrator)}

    @property
    def prior(self) -> float:
        """Share of positives in the reference, not quite 0 or 1."""
        share = float(self._positives(self._reference).mean())
        return min(1.0 - PROBABILITY_FLOOR, max(PROBABILITY_FLOOR, share))

    def chances(self, rows: LoggedRows) -> np.ndarray:
        """Calibrated probability of each row, [n]."""
        return self._calibrator(self._probabilities(rows))

    def row_metrics(self, rows: LoggedRows, calibrator: Calibrator | None = None) -> RowMetrics:
        """Expected metrics of each row.

        Args:
            rows: Rows of a window.
            calibrator: Calibrator in place of CBPE's.
        """
        if self.task.kind == "regression":
            inputs = self._inputs(rows)
            means = self._losses.expected_errors(inputs, rows.scores)
            squares = self._losses.expected_squares(inputs, rows.scores)
            return {"mae": (means, np.maximum(squares - means**2, 0.0))}
        return self.metrics_at(rows, (calibrator or self._calibrator)(self._probabilities(rows)))

    def metrics_at(self, rows: LoggedRows, chances: np.ndarray) -> RowMetrics:
        """Expected metrics of each row of a classifier, given the probability of each."""
        variances = chances * (1.0 - chances)
        if self.task.kind == "multiclass":
            return {"accuracy": (chances, variances)}
        scores = rows.scores
        right = np.where(scores >= DECISION_THRESHOLD, chances, 1.0 - chances)
        brier = chances * (1.0 - scores) ** 2 + (1.0 - chances) * scores**2
        return {"accuracy": (right, variances), "brier": (brier, variances * (1.0 - 2.0 * scores) ** 2)}

    def expected_losses(self, live: LoggedRows) -> np.ndarray:
        """Expected loss of each row, [n]: how informative its label would be."""
        if self.task.kind == "regression":
            return self._losses.expected_errors(self._inputs(live), live.scores)
        predicted = self._probabilities(live)
        calibrated = self._calibrator(predicted)
        return np.asarray(calibrated * (1 - predicted) ** 2 + (1 - calibrated) * predicted**2)

    def _inputs(self, live: LoggedRows) -> np.ndarray:
        return build_matrices(self._reference.frame, live.frame, self.columns)[1]

    def _expected_metrics(self, live: LoggedRows, calibrator: Calibrator) -> Metrics:
        predicted = self._probabilities(live)
        if self.task.kind == "binary":
            return classifier_performance(predicted, calibrator(predicted))
        return {"accuracy": float(calibrator(predicted).mean())}

    def _probabilities(self, rows: LoggedRows) -> np.ndarray:
        """The probability that is calibrated: of the positive class, or of the predicted one."""
        return rows.scores if self.task.kind == "binary" else rows.scores.max(axis=1)

    def _positives(self, rows: LoggedRows) -> np.ndarray:
        """1 where that class came true."""
        return rows.labels if self.task.kind == "binary" else _hits(rows)


def _hits(rows: LoggedRows) -> np.ndarray:
    return np.asarray((rows.scores.argmax(axis=1) == rows.labels).astype(float))
