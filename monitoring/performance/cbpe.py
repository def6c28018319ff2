"""A classifier's performance without labels, from its calibrated probabilities. Pure.

CBPE    confidence-based performance estimation: a row with calibrated probability p is positive in p of cases, so that
        each row adds p and 1 - p to the cells of an expected confusion matrix. Probabilities are calibrated by isotonic
        regression (Zadrozny and Elkan, KDD 2002) on labeled reference rows.
PAPE    probabilistic adaptive performance estimation (Bialek, Kivimaki, Kuberski, Perrakis, "Estimating model
        performance under covariate shift without labels", 2024, arXiv 2401.08348): the calibration is refitted for each
        window, on reference rows weighted by the density ratio p_live(x) / p_reference(x), which a domain classifier
        estimates. CBPE is right while P(y | score) holds; PAPE while P(y | x) does.

Neither detects a change of P(y | x): only labels do, late as they are (monitoring/performance/loss_bounds.py).
"""

from __future__ import annotations

import numpy as np
from sklearn.isotonic import IsotonicRegression

from cluster.errors import DataError
from cluster.row_losses import DECISION_THRESHOLD, PROBABILITY_FLOOR

_BISECTIONS = 20


class Calibrator:
    """Scores to probabilities, by isotonic regression on labeled rows."""

    def __init__(self, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Fit.

        Args:
            scores: Scores, [rows].
            labels: 0 or 1, [rows].
            weights: Weight of each row, [rows]; None for equal ones.

        Raises:
            DataError: There are no rows, a value is not finite, or a label is not 0 or 1.
        """
        scores, labels = _require_finite(scores, "scores"), _require_finite(labels, "labels")
        if not np.isin(labels, (0, 1)).all():
            raise DataError("data.not_binary")
        self._isotonic = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        self._isotonic.fit(scores, labels, sample_weight=weights)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, [rows]."""
        return np.asarray(self._isotonic.predict(_require_finite(scores, "scores")))


def classifier_performance(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Performance of a binary classifier: expected, by CBPE, or observed.

    Args:
        scores: Scores, [rows].
        positive: Probability that each row is positive, [rows]; or its label, for the observed performance.

    Returns:
        ``accuracy``, ``auc``, ``f1``, ``log_loss`` and ``brier``, those that are defined.
    """
    scores, positive = _require_finite(scores, "scores"), _require_finite(positive, "labels").astype(float)
    predicted, n = scores >= DECISION_THRESHOLD, len(scores)
    true_positives = float(positive[predicted].sum())
    true_negatives = float((1.0 - positive)[~predicted].sum())
    positives = float(predicted.sum()) + float(positive.sum())
    clipped = np.clip(scores, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    odds = np.log(clipped / (1.0 - clipped))
    metrics = {
        "accuracy": (true_positives + true_negatives) / n,
        "auc": _area(scores, positive),
        "f1": 2.0 * true_positives / positives if positives else None,
        "log_loss": float(-(positive * odds + np.log(1.0 - clipped)).mean()),
        "brier": float((positive * (1.0 - positive) + (scores - positive) ** 2).mean()),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def estimate_prior(chances: np.ndarray, prior: float) -> float:
    """The share of positives in a window under prior shift: the same scores given the label, as in the reference.

    The maximum of the likelihood, at which Saerens, Latinne and Decaestecker's iteration ends ("Adjusting the outputs
    of a classifier to new a priori probabilities", Neural Computation 14(1), 2002); it is concave.

    Args:
        chances: Calibrated probabilities, [rows].
        prior: Share of positives in the reference, in (0, 1).
    """
    chances = np.clip(chances, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    up, down = chances / prior, (1.0 - chances) / (1.0 - prior)
    if np.ptp(chances) < PROBABILITY_FLOOR:
        return prior  # Equal scores tell nothing.
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        share = (low + high) / 2
        slope = float(((up - down) / (share * up + (1.0 - share) * down)).sum())
        low, high = (share, high) if slope > 0 else (low, share)
    return share


def at_prior(chances: np.ndarray, prior: float, share: float) -> np.ndarray:
    """Calibrated probabilities of a reference with ``prior`` positives, where ``share`` are; [rows]."""
    up, down = chances * share / prior, (1.0 - chances) * (1.0 - share) / (1.0 - prior)
    return np.asarray(up / np.maximum(up + down, 1e-300))


def _area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the expected ROC curve: the probability that a positive outranks a negative, ties half."""
    values, place = np.unique(scores, return_inverse=True)
    ups, downs = (np.bincount(place, weights, len(values)) for weights in (positive, 1.0 - positive))
    if not ups.sum() or not downs.sum():
        return None
    return float(ups @ (downs.cumsum() - downs / 2.0) / (ups.sum() * downs.sum()))


def _require_finite(values: np.ndarray, name: str) -> np.ndarray:
    if not len(values) or not np.isfinite(values).all():
        raise DataError("data.not_finite", column=name, values=len(values))
    return np.asarray(values)
