"""Temperature scaling of probabilities (Guo et al. 2017, "On Calibration of Modern Neural Networks").

One number, fitted on validation rows, divides the logits. It changes no ranking and no predicted class, and is a
constant of the exported graph. It works from probabilities: their logarithms are the logits up to a constant that
softmax ignores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

from cluster.errors import ProjectError
from cluster.values import Check, Frozen, Task
from trainers import metrics
from trainers.evaluation import check_builders

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
LOGIT_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before their logits are taken.

Lower than cluster.row_losses.PROBABILITY_FLOOR: this bounds no loss, and a temperature must not change scores that the
loss can tell apart.
"""


class CalibrationResult(Frozen):
    """Calibration of held-out rows before and after a temperature.

    ``applied``: the exported model contains the temperature; otherwise the figures say what it would change.
    """

    temperature: float
    applied: bool
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float


def require_probabilities(task: Task, calibrate: str) -> None:
    """Check that the task has probabilities if its training settings request calibration.

    Raises:
        ProjectError: The task is a regression, and ``calibrate`` is not "none".
    """
    if calibrate != "none" and task.kind == "regression":
        raise ProjectError("project.regression_calibration", calibrate=calibrate)


def fit_temperature(task: Task, scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least log loss, between 0.05 and 20; above 1 when ``scores`` are overconfident."""
    # Takes half a second to import, and projects import this module to check their declarations.
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return _loss(task, scores, labels, float(np.exp(log_temperature)))

    best = minimize_scalar(loss, bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)), method="bounded")
    return float(np.exp(best.x))


def apply_temperature(task: Task, scores: np.ndarray, temperature: float) -> np.ndarray:
    """``scores`` with their logits divided by ``temperature``, float64."""
    return np.asarray(
        softmax(_logits(task, scores) / temperature, axis=1)
        if task.kind == "multiclass"
        else expit(_logits(task, scores) / temperature)
    )


def measure(task: Task, raw: np.ndarray, labels: np.ndarray, temperature: float, applied: bool) -> CalibrationResult:
    """Calibration error and log loss with and without a temperature.

    Args:
        task: A task with probabilities.
        raw: Scores without a temperature.
        labels: Labels of the same rows.
        temperature: The temperature to measure.
        applied: Whether the exported model contains it.
    """
    scores = {"before": raw, "after": apply_temperature(task, raw, temperature)}
    figures = {
        f"{metric}_{when}": metrics.prepare(task, metric, of_model, labels)(None)
        for metric in ("ece", "log_loss")
        for when, of_model in scores.items()
    }
    return CalibrationResult(temperature=temperature, applied=applied, **figures)


def check(result: CalibrationResult | None, limit: float) -> Iterator[Check]:
    """A temperature in the model may add at most ``limit`` to the calibration error of rows it was not fitted on."""
    if result is not None and result.applied:
        what = (
            f"calibration error is {result.ece_after:.4f} with temperature {result.temperature:.3g} and "
            f"{result.ece_before:.4f} without: the increase of"
        )
        yield from check_builders.at_most("calibration", result.ece_after - result.ece_before, limit, what)


def _logits(task: Task, scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, np.float64), LOGIT_FLOOR, 1 - LOGIT_FLOOR)
    return np.asarray(np.log(clipped) if task.kind == "multiclass" else logit(clipped))


def _loss(task: Task, scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean log loss, computed from logits so that no probability is clipped again."""
    logits = _logits(task, scores) / temperature
    if task.kind != "multiclass":
        return float(np.mean(np.logaddexp(0.0, np.where(labels == 1, -logits, logits))))
    return -float(log_softmax(logits, axis=1)[np.arange(len(labels)), labels.astype(int)].mean())
