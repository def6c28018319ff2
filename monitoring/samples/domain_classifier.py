"""A classifier that separates live rows from reference rows: drift of several columns together. Pure.

The classifier is trained on all folds but one and ranks the rows of that one; its AUC is 1/2 in expectation when both
samples come from one source, regardless of what it has learned (Lopez-Paz and Oquab, "Revisiting classifier two-sample
tests", ICLR 2017). P-value: given the classifier, a fold's AUC is a Mann-Whitney statistic with the null variance
known, ties included; the folds' sum is taken as normal. Limits: DeLong, DeLong, Clarke-Pearson, Biometrics 44(3), 1988.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from scipy import stats
from sklearn.model_selection import StratifiedKFold

from cluster.errors import DataError
from cluster.values import Frozen

FOLDS = 5
CONFIDENCE = 0.95
MAX_RATIO = 50.0
"""Largest weight of a reference row: a few rows must not dominate a whole window."""


class Separability(Frozen):
    """How well the classifier separates live rows from reference rows."""

    auc: float
    """0.5: not at all; 1: perfectly."""
    low: float
    """Lower confidence limit of the AUC."""
    high: float
    """Upper confidence limit of the AUC."""
    p_value: float
    ranked: tuple[tuple[str, float], ...]
    """Each feature's share of the gain, largest first."""


class DomainClassifier:
    """Cross-fitted classifier between two samples [rows, features].

    Categories are codes, NaN is missing, and infinite values count as missing.
    """

    def __init__(self, reference: np.ndarray, live: np.ndarray, seed: int = 0) -> None:
        """Take the two samples.

        Raises:
            DataError: A sample has fewer rows than there are folds.
        """
        if min(len(reference), len(live)) < FOLDS:
            raise DataError("data.too_few_rows_to_compare", reference=len(reference), live=len(live), minimum=FOLDS)
        inputs = np.vstack([reference, live]).astype(float)
        self._inputs = np.where(np.isfinite(inputs), inputs, np.nan)
        self._labels = np.repeat([0, 1], [len(reference), len(live)])
        self._seed = seed

    def test(self, names: Sequence[str]) -> Separability:
        """Test whether both samples come from one source; ``names`` are those of the features."""
        aucs, null, spread, gains = [], 0.0, 0.0, np.zeros(self._inputs.shape[1])
        for model, held_out in self._folds():
            probabilities = model.predict_proba(self._inputs[held_out])[:, 1]
            auc, null_variance, variance = auc_with_variances(probabilities, self._labels[held_out])
            aucs.append(auc)
            null, spread = null + null_variance, spread + variance
            gains += model.booster_.feature_importance("gain")
        auc, null_sd, sd = float(np.mean(aucs)), math.sqrt(null) / FOLDS, math.sqrt(spread) / FOLDS
        reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * sd
        shares = gains / max(gains.sum(), 1e-300)
        return Separability(
            auc=auc,
            low=max(0.0, auc - reach),
            high=min(1.0, auc + reach),
            p_value=float(stats.norm.sf((auc - 0.5) / null_sd)) if null_sd else 1.0,
            ranked=tuple((names[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")),
        )

    def density_ratio(self) -> np.ndarray:
        """p_live(x) / p_reference(x) at each reference row, [rows], mean 1; each from folds without that row."""
        return self.densities()[0]

    def densities(self) -> tuple[np.ndarray, float]:
        """The density ratio at each reference row, and the share of live rows outside the reference's support.

        A row is outside where live rows are more than MAX_RATIO times as dense.
        """
        live = int(self._labels.sum())
        n = len(self._labels) - live
        probabilities = np.empty(len(self._labels))
        for model, held_out in self._folds():
            probabilities[held_out] = model.predict_proba(self._inputs[held_out])[:, 1]
        ratio = probabilities / np.maximum(1.0 - probabilities, 1e-12) * n / live
        weights = np.minimum(ratio[:n], MAX_RATIO)
        return np.asarray(weights / weights.mean()), float(np.mean(ratio[n:] > MAX_RATIO))

    def _folds(self) -> Iterator[tuple[Any, np.ndarray]]:
        """A classifier for each fold, trained on the others, and the rows of the fold."""
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=self._seed)
        for train, held_out in folds.split(self._inputs, self._labels):
            model = LGBMClassifier(n_estimators=60, num_leaves=15, n_jobs=1, random_state=self._seed, verbose=-1)
            yield model.fit(self._inputs[train], self._labels[train]), held_out


def auc_with_variances(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """AUC of scores, with its variances.

    Args:
        scores: Scores, [rows].
        labels: 1 for live rows, 0 for reference rows.

    Returns:
        The AUC, its variance when labels carry no information (Mann-Whitney with ties), and its variance by DeLong.
    """
    live, reference = scores[labels == 1], scores[labels == 0]
    n, m = len(reference), len(live)
    ranks = stats.rankdata(scores)
    above = (ranks[labels == 1] - stats.rankdata(live)) / n
    below = 1.0 - (ranks[labels == 0] - stats.rankdata(reference)) / m
    ties = np.unique(scores, return_counts=True)[1]
    both = n + m
    null = (both + 1 - float((ties**3 - ties).sum()) / (both * (both - 1))) / (12 * n * m)
    variance = (float(above.var(ddof=1)) / m if m > 1 else 0.0) + (float(below.var(ddof=1)) / n if n > 1 else 0.0)
    return float(above.mean()), max(null, 0.0), variance
