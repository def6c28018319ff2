"""Probabilities that mean what they say: temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks").

One number, fitted on validation rows, divides the logits. It changes no ranking and no predicted class, and lies in the exported
graph as a constant. Works from probabilities: their logarithms are the logits up to a constant that softmax ignores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from cluster.errors import ProjectError
from cluster.values import Check, Frozen, Task
from trainers import metrics
from trainers.evaluation import check_builders

COLDEST, HOTTEST = 0.05, 20.0
LOGIT_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before their logits are taken."""


class Calibrated(Frozen):
    """What a temperature does to held-out rows; ``applied`` when the exported model has it, else it is what would be."""

    temperature: float
    applied: bool
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float


def require(task: Task, calibrate: str) -> None:
    """Raises ProjectError where there is nothing to calibrate."""
    if calibrate != "none" and task.kind == "regression":
        raise ProjectError(f"calibrate={calibrate!r}: a regression has no probabilities", "leave calibrate out")


def fit_temperature(task: Task, scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least log loss, between 0.05 and 20; above 1 when ``scores`` are too sure of themselves."""

    def loss(log_temperature: float) -> float:
        return float(_loss(task, scores, labels, float(np.exp(log_temperature))))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def tempered(task: Task, scores: np.ndarray, temperature: float) -> np.ndarray:
    """``scores`` with their logits divided by ``temperature``, float64."""
    return np.asarray(
        softmax(_logits(task, scores) / temperature, axis=1)
        if task.kind == "multiclass"
        else expit(_logits(task, scores) / temperature)
    )


def measure(task: Task, raw: np.ndarray, labels: np.ndarray, temperature: float, applied: bool) -> Calibrated:
    """``raw`` are the scores without a temperature."""
    before, after = raw, tempered(task, raw, temperature)
    ece, loss = (
        {k: metrics.prepare(task, name, s, labels)(None) for k, s in ((0, before), (1, after))}
        for name in ("ece", "log_loss")
    )
    return Calibrated(
        temperature=temperature,
        applied=applied,
        ece_before=ece[0],
        ece_after=ece[1],
        log_loss_before=loss[0],
        log_loss_after=loss[1],
    )


def judge(found: Calibrated | None, limit: float) -> Iterator[Check]:
    """A temperature that was asked for may not make things worse on rows it was not fitted on."""
    if found is not None and found.applied:
        what = f"calibration error with temperature {found.temperature:.3g} is {found.ece_after:.4f}, without {found.ece_before:.4f}: added"
        yield check_builders.at_most("calibration", found.ece_after - found.ece_before, limit, what)


def _logits(task: Task, scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, np.float64), LOGIT_FLOOR, 1 - LOGIT_FLOOR)
    return np.asarray(np.log(clipped) if task.kind == "multiclass" else logit(clipped))


def _loss(task: Task, scores: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean log loss, from logits: no probability is clipped on the way."""
    logits = _logits(task, scores) / temperature
    if task.kind != "multiclass":
        return float(np.mean(np.logaddexp(0.0, np.where(labels == 1, -logits, logits))))
    given = log_softmax(logits, axis=1)[np.arange(len(labels)), labels.astype(int)]
    return float(-given.mean())
