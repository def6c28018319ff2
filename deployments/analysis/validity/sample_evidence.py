"""From the sample of rows to the estimates of the checks. Pure."""

from __future__ import annotations

import numpy as np

from cluster.row_losses import row_loss
from cluster.values import Task
from deployments.analysis.validity.contrasts import Estimate, difference, kish_effect, number_keys, ranks, slope
from deployments.analysis.validity.copied_labels import log_e_copied
from deployments.analysis.validity.label_history import LabelHistory, log_e_fewer_labels
from deployments.analysis.validity.row_sample import RowArrays
from deployments.analysis.validity.validity_evidence import (
    MAX_NAMED,
    HeldOut,
    LabelEvidence,
    Rate,
    ValidityEvidence,
)

FAR = 12.0
"""Regression: a squared error is far off beyond this many times the held-out mean squared error."""
HALF = 0.5
"""Slope of labels on scores, 1 where scores are calibrated, at which a constant predicts as well as the champion."""
DELAY_UNIT_US = 10e6
"""Microseconds. Shorter differences between delays count for nothing: a challenger answers one hop later."""
MAX_CLASSES = 20
"""Classes of which each is compared; of more classes, the most frequent ones."""
_CLIP = 4.0
_THIRDS = (1.0 / 3.0, 2.0 / 3.0)


def sample_evidence(
    rows: RowArrays, task: Task, held_out: HeldOut, history: LabelHistory | None = None
) -> ValidityEvidence:
    """Summarize a sample of rows.

    Args:
        rows: The sample.
        task: Task of the model.
        held_out: The champion's figures on held-out rows.
        history: How labels came before the rollout; None if that is not known.
    """
    rows = rows._replace(keys=number_keys(rows.keys))
    answered = rows.select(np.isfinite(rows.champion).all(axis=1))
    labeled = answered.select(np.isfinite(answered.labels))
    evidence = ValidityEvidence(
        rows=len(rows.ids),
        labeled=int(np.isfinite(rows.labels).sum()),
        coverage=_coverage(answered),
        log_e_fewer_labels=_fewer_labels(answered, history),
        champion_scores=_scores(answered),
        named={"coverage": _unlabeled(rows), "scores": tuple(rows.ids[rows.challenger][-MAX_NAMED:])},
    )
    if not len(labeled.ids) or task.kind == "multilabel":
        return evidence
    scores = labeled.champion if task.wide else labeled.champion[:, 0]
    losses = np.asarray(row_loss(task, scores, labeled.labels))
    worst = tuple(labeled.ids[np.argsort(-losses, kind="stable")[:MAX_NAMED]])
    late = tuple(labeled.ids[np.argsort(labeled.at_us - labeled.received_us, kind="stable")[:MAX_NAMED]])
    estimates = {
        "delay": _difference(ranks(np.floor((labeled.received_us - labeled.at_us) / DELAY_UNIT_US)), labeled),
        "labels": tuple(_difference(column, labeled) for column in _label_columns(labeled, task).T),
        "champion_loss": _difference(ranks(losses), labeled),
        **_label_evidence(labeled, task, held_out),
        "trained_shares": held_out.class_shares,
        "named": evidence.named | {"labels": worst, "loss": worst, "delay": late},
    }
    return evidence.model_copy(update=estimates)


def _difference(values: np.ndarray, rows: RowArrays) -> Estimate:
    return difference(values, rows.challenger, rows.shares, rows.keys)


def _coverage(rows: RowArrays) -> tuple[Estimate, ...]:
    """Of all rows, and of those with low, middle and high scores: labels may be missing where a variant errs."""
    if not len(rows.ids):
        return ()
    labeled, rank = np.isfinite(rows.labels).astype(float), ranks(rows.champion.max(axis=1))
    part = np.digitize(rank, _THIRDS)
    thirds = [(labeled[part == i], rows.select(part == i)) for i in range(len(_THIRDS) + 1)]
    return tuple(_difference(*each) for each in [(labeled, rows), *thirds])


def _fewer_labels(rows: RowArrays, history: LabelHistory | None) -> float:
    if history is None or not len(rows.ids):
        return 0.0
    return log_e_fewer_labels(history, rows.at_us, rows.received_us, kish_effect(rows.keys))


def _scores(rows: RowArrays) -> tuple[Estimate, ...]:
    if not len(rows.ids):
        return ()
    rank = ranks(rows.champion.max(axis=1))
    return _difference(rank, rows), _difference(2.0 * np.abs(rank - 0.5), rows)


def _unlabeled(rows: RowArrays) -> tuple[str, ...]:
    """Rows without a label, of the variant that has fewer labels."""
    labeled = np.isfinite(rows.labels)
    if not (rows.challenger.any() and (~rows.challenger).any()):
        return ()
    fewer = rows.challenger if labeled[rows.challenger].mean() < labeled[~rows.challenger].mean() else ~rows.challenger
    return tuple(rows.ids[fewer & ~labeled][:MAX_NAMED])


def _label_columns(rows: RowArrays, task: Task) -> np.ndarray:
    """Labels as variables in [0, 1]: an indicator of each class, the label itself, or its rank; [rows, columns]."""
    if task.kind == "multiclass":
        return _indicators(rows.labels, rows.champion.shape[1])[:, :MAX_CLASSES]
    column = ranks(rows.labels) if task.kind == "regression" else rows.labels.clip(0.0, 1.0)
    return np.asarray(column[:, None])


def _label_evidence(rows: RowArrays, task: Task, held_out: HeldOut) -> dict[str, LabelEvidence]:
    both = rows.select(np.isfinite(rows.challenger_scores).all(axis=1))
    if not len(both.ids):
        return {}
    versions = {"champion_labels": both.champion, "challenger_labels": both.challenger_scores}
    return {name: _version_labels(both, scores, task, held_out) for name, scores in versions.items()}


def _version_labels(rows: RowArrays, scores: np.ndarray, task: Task, held_out: HeldOut) -> LabelEvidence:
    regression = task.kind == "regression"
    if task.kind == "multiclass":
        labels = _indicators(rows.labels, scores.shape[1])
    else:
        labels = _clipped(rows.labels[:, None], scores, held_out) if regression else rows.labels[:, None]
    count, effect = len(rows.ids), kish_effect(rows.keys)
    evidence = LabelEvidence(
        slope=slope(labels, scores, rows.keys, HALF),
        relation=slope(labels, scores, rows.keys, 0.0),
        log_e_copied=log_e_copied(task, rows.labels, scores, effect),
    )
    if regression and held_out.squared_error is not None:
        far = np.square(rows.labels - scores[:, 0]) > FAR * held_out.squared_error
        rate = Rate(count=float(far.sum()) / effect, units=count / effect)
        return evidence.model_copy(update={"far_off": rate})
    if regression:
        return evidence
    shares = tuple(
        (Rate(count=float(labels[:, i].sum()) / effect, units=count / effect), float(scores[:, i].mean()))
        for i in range(min(labels.shape[1], MAX_CLASSES))
    )
    return evidence.model_copy(update={"class_shares": shares})


def _clipped(labels: np.ndarray, scores: np.ndarray, held_out: HeldOut) -> np.ndarray:
    """Labels of a regression no further from the score than some usual errors: a few of them must not decide."""
    residual = labels - scores
    usual = held_out.squared_error**0.5 if held_out.squared_error else 1.4826 * float(np.median(np.abs(residual)))
    return np.asarray(scores + residual.clip(-_CLIP * usual, _CLIP * usual))


def _indicators(labels: np.ndarray, classes: int) -> np.ndarray:
    return (labels[:, None] == np.arange(classes)).astype(float)
