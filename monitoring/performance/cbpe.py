"""A classifier's performance without labels: what its calibrated probabilities say of themselves. Pure.

CBPE    confidence-based performance estimation: a probability p that is calibrated says that the row is positive in p of
        cases, so that each row adds p and 1 - p to the cells of an expected confusion matrix. Probabilities are
        calibrated by isotonic regression (Zadrozny and Elkan, KDD 2002) on labelled reference rows.
PAPE    probabilistic adaptive performance estimation (Bialek, Kivimaki, Kuberski, Perrakis, "Estimating model performance
        under covariate shift without labels", 2024, arXiv 2401.08348): the calibration is fitted anew for each window, on
        reference rows weighted by the density ratio p_live(x) / p_reference(x), which a classifier that tells the
        two apart estimates. CBPE is right while P(y | score) holds; PAPE while P(y | x) does.

Neither can see a change of P(y | x): only labels can, and late ones tell (monitoring/performance/loss_bounds.py).
"""

from __future__ import annotations

import math

import numpy as np
from sklearn.isotonic import IsotonicRegression

from cluster.errors import DataError
from cluster.values import Frozen
from monitoring.samples.domain_classifier import density_ratio

_CLIP = 1e-7
"""Keeps logarithms finite: a calibrated probability may be exactly 0 or 1."""


class Performance(Frozen):
    """Metrics of a binary classifier over ``rows``, expected or observed; None where they are undefined.

    ``accuracy_error`` and ``log_loss_error`` are standard deviations of the observed metric around the expected one
    that come from labels alone, were the probabilities exact; 0 for observed ones.
    """

    rows: int
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    log_loss: float
    brier: float
    accuracy_error: float = 0.0
    log_loss_error: float = 0.0


class Calibrator:
    """Scores to probabilities, by isotonic regression on labelled rows."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Arrays [rows]; labels 0 or 1. Raises DataError for rows that nothing can be learned from."""
        scores, labels = _checked(scores, "scores"), _checked(labels, "labels")
        if not np.isin(labels, (0, 1)).all():
            raise DataError("labels other than 0 and 1", "performance is estimated of binary classifiers")
        self._fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        self._fitted.fit(scores, labels, sample_weight=weights)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [rows]."""
        return np.asarray(self._fitted.predict(_checked(scores, "scores")))


def expected(scores: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Performance:
    """CBPE: performance of ``scores`` [rows] when row i is positive with ``probabilities[i]``."""
    return _performance(_checked(scores, "scores"), _checked(probabilities, "probabilities"), threshold)


def observed(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> Performance:
    """Performance by labels [rows]: the truth that an estimate is held against, by the same formulas."""
    return _performance(_checked(scores, "scores"), _checked(labels, "labels").astype(float), threshold)


def adapted(
    reference: np.ndarray, live: np.ndarray, scores: np.ndarray, labels: np.ndarray, seed: int = 0
) -> Calibrator:
    """PAPE: a calibrator for the window ``live`` [m, features], of reference rows [n, features] and their labels."""
    return Calibrator(scores, labels, density_ratio(reference, live, seed))


def _performance(scores: np.ndarray, positive: np.ndarray, threshold: float) -> Performance:
    predicted, n = scores >= threshold, len(scores)
    hits, called, there = float(positive[predicted].sum()), float(predicted.sum()), float(positive.sum())
    misses = float((1.0 - positive)[~predicted].sum())
    clipped = np.clip(scores, _CLIP, 1.0 - _CLIP)
    odds = np.log(clipped / (1.0 - clipped))
    spread = positive * (1.0 - positive)
    return Performance(
        rows=n,
        accuracy=(hits + misses) / n,
        precision=hits / called if called else None,
        recall=hits / there if there else None,
        f1=2.0 * hits / (called + there) if called + there else None,
        auc=_area(scores, positive),
        log_loss=float(-(positive * odds + np.log(1.0 - clipped)).mean()),
        brier=float((spread + (scores - positive) ** 2).mean()),
        accuracy_error=math.sqrt(float(spread.sum())) / n,
        log_loss_error=math.sqrt(float((spread * odds**2).sum())) / n,
    )


def _area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the expected ROC curve: the chance that a positive outranks a negative, ties half."""
    values, place = np.unique(scores, return_inverse=True)
    ups, downs = (np.bincount(place, weights, len(values)) for weights in (positive, 1.0 - positive))
    if not ups.sum() or not downs.sum():
        return None
    below = downs.cumsum() - downs / 2.0
    return float(ups @ below / (ups.sum() * downs.sum()))


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    if not len(values) or not np.isfinite(values).all():
        raise DataError(
            f"{name}: {len(values)} rows, some of which may not be finite", "leave out rows without a number"
        )
    return np.asarray(values)
