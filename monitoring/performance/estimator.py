"""Performance of a version over windows: by labels, and without them, by the same names of metrics. Pure.

loss        of a row: Brier score for classifiers (Brier, "Verification of forecasts expressed in terms of probability",
            1950), the sum over classes where there are several; absolute error for regression
by labels   metrics of the rows whose labels have come
without     CBPE and PAPE for classifiers (monitoring/performance/cbpe.py), of the predicted class where there are several; DLE for
            regression (monitoring/performance/dle.py); learned on held-out rows
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import DataError
from cluster.values import Task
from features.definitions import Column
from monitoring.performance import cbpe, dle
from monitoring.performance.cbpe import Calibrator, Performance
from monitoring.performance.dle import LossModel
from monitoring.samples.feature_matrix import matrices
from monitoring.samples.logged_rows import Rows

Metrics = dict[str, float]
LEAST_ROWS = 100
"""Labelled held-out rows below which nothing is learned of them."""


def loss_name(task: Task) -> str:
    return "mae" if task.kind == "regression" else "brier"


def losses(task: Task, rows: Rows) -> np.ndarray:
    """Loss of each row [n]; NaN without a label."""
    if task.kind == "regression":
        return np.asarray(np.abs(rows.scores - rows.labels))
    if task.kind == "binary":
        return np.asarray(np.square(rows.scores - rows.labels))
    known = np.isfinite(rows.labels)
    truth = np.eye(task.outputs)[np.where(known, rows.labels, 0).astype(np.int64)]
    return np.where(known, np.square(rows.scores - truth).sum(axis=1), np.nan)


def observed(task: Task, rows: Rows) -> Metrics:
    """Metrics by labels; empty without any."""
    rows = rows.labelled
    if not len(rows):
        return {}
    if task.kind == "regression":
        found = dle.observed(rows.scores, rows.labels)
        return {"mae": found.mae, "rmse": found.rmse}
    if task.kind == "binary":
        return _metrics(cbpe.observed(rows.scores, rows.labels))
    return {"accuracy": float(_hits(rows).mean()), "brier": float(losses(task, rows).mean())}


class Estimator:
    """Learns from held-out rows what a version's performance is without labels."""

    def __init__(self, task: Task, reference: Rows, columns: Sequence[Column]) -> None:
        """Raises DataError when the labelled ones are too few or of no use."""
        self._task = task
        self._reference = reference.labelled
        self._columns = columns
        if len(self._reference) < LEAST_ROWS:
            raise DataError(f"{len(self._reference)} labelled held-out rows", f"{LEAST_ROWS} are needed")
        if task.kind == "regression":
            inputs, _, _ = matrices(self._reference.frame, self._reference.frame, columns)
            self._losses = LossModel(inputs, self._reference.scores, self._reference.labels)
        else:
            self._calibrator = Calibrator(self._said(self._reference), self._true(self._reference))

    def plain(self, live: Rows) -> dict[str, Metrics]:
        """By method, CBPE or DLE."""
        if self._task.kind == "regression":
            found = self._losses.estimate(self._inputs(live), live.scores)
            return {"DLE": {"mae": found.mae, "rmse": found.rmse}}
        return {"CBPE": self._expected(live, self._calibrator)}

    def adapted(self, live: Rows, sample: int) -> dict[str, Metrics]:
        """PAPE, of ``sample`` rows from both sides; nothing for regression, or without a number or category to adapt by."""
        ours, theirs = self._reference.thinned(sample), live.thinned(sample)
        inputs, theirs_inputs, names = matrices(ours.frame, theirs.frame, self._columns)
        if self._task.kind == "regression" or not names:
            return {}
        calibrator = cbpe.adapted(inputs, theirs_inputs, self._said(ours), self._true(ours))
        return {"PAPE": self._expected(live, calibrator)}

    def worth(self, live: Rows) -> np.ndarray:
        """Expected loss of each row [n]: how much its label would tell."""
        if self._task.kind == "regression":
            return self._losses.absolute(self._inputs(live), live.scores)
        said = self._said(live)
        chance = self._calibrator(said)
        return np.asarray(chance * (1 - said) ** 2 + (1 - chance) * said**2)

    def _inputs(self, live: Rows) -> np.ndarray:
        return matrices(self._reference.frame, live.frame, self._columns)[1]

    def _expected(self, live: Rows, calibrator: Calibrator) -> Metrics:
        said = self._said(live)
        if self._task.kind == "binary":
            return _metrics(cbpe.expected(said, calibrator(said)))
        return {"accuracy": float(calibrator(said).mean())}

    def _said(self, rows: Rows) -> np.ndarray:
        """The probability that is calibrated: of the positive class, or of the predicted one."""
        return rows.scores if self._task.kind == "binary" else rows.scores.max(axis=1)

    def _true(self, rows: Rows) -> np.ndarray:
        return rows.labels if self._task.kind == "binary" else _hits(rows)


def _hits(rows: Rows) -> np.ndarray:
    return np.asarray((rows.scores.argmax(axis=1) == rows.labels).astype(float))


def _metrics(found: Performance) -> Metrics:
    named = {name: getattr(found, name) for name in ("accuracy", "auc", "f1", "log_loss", "brier")}
    return {name: float(value) for name, value in named.items() if value is not None}
