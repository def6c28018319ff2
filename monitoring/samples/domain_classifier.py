"""Can a classifier tell live rows from reference rows? Drift of what columns have in common. Pure.

The classifier is trained on all folds but one and ranks the rows of that one; its AUC is 1/2 in expectation when both
samples are of one source, whatever it has learned (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests",
ICLR 2017). P-value: given the classifier, a fold's AUC is a Mann-Whitney statistic with the null variance known,
ties included; the folds' sum is taken as normal. Limits: DeLong, DeLong, Clarke-Pearson, Biometrics 44(3), 1988.
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
"""Weights of reference rows are cut here: a few rows must not carry a whole window."""


class Separation(Frozen):
    """How well live rows can be told from reference rows. 0.5: not at all; 1: every one.

    ``low`` and ``high`` are confidence limits; ``ranked`` holds each feature's share in telling the two apart, the
    largest first.
    """

    auc: float
    low: float
    high: float
    p_value: float
    ranked: tuple[tuple[str, float], ...]


def tell_apart(reference: np.ndarray, live: np.ndarray, names: Sequence[str], seed: int = 0) -> Separation:
    """Compare two samples [rows, features]; categories as codes, NaN for missing, infinite counts as missing.

    Raises DataError when one has fewer rows than there are folds.
    """
    inputs, labels = _both(reference, live)
    aucs, null, spread, gains = [], 0.0, 0.0, np.zeros(inputs.shape[1])
    for train, test in _folds(inputs, labels, seed):
        model = _fitted(inputs[train], labels[train], seed)
        auc, null_variance, variance = _auc(model.predict_proba(inputs[test])[:, 1], labels[test])
        aucs.append(auc)
        null, spread = null + null_variance, spread + variance
        gains += model.booster_.feature_importance("gain")
    auc, null_sd, sd = float(np.mean(aucs)), math.sqrt(null) / FOLDS, math.sqrt(spread) / FOLDS
    reach = float(stats.norm.isf((1 - CONFIDENCE) / 2)) * sd
    shares = gains / max(gains.sum(), 1e-300)
    return Separation(
        auc=auc,
        low=max(0.0, auc - reach),
        high=min(1.0, auc + reach),
        p_value=float(stats.norm.sf((auc - 0.5) / null_sd)) if null_sd else 1.0,
        ranked=tuple((names[i], float(shares[i])) for i in np.argsort(-shares, kind="stable")),
    )


def density_ratio(reference: np.ndarray, live: np.ndarray, seed: int = 0) -> np.ndarray:
    """p_live(x) / p_reference(x) at each reference row, [rows], mean 1; out of fold, so that no row judges itself."""
    inputs, labels = _both(reference, live)
    chance = np.empty(len(labels))
    for train, test in _folds(inputs, labels, seed):
        chance[test] = _fitted(inputs[train], labels[train], seed).predict_proba(inputs[test])[:, 1]
    odds = chance[: len(reference)] / np.maximum(1.0 - chance[: len(reference)], 1e-12)
    ratio = np.minimum(odds * len(reference) / len(live), MAX_RATIO)
    return np.asarray(ratio / ratio.mean())


def _both(reference: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if min(len(reference), len(live)) < FOLDS:
        raise DataError(f"{len(reference)} reference rows and {len(live)} live ones", f"{FOLDS} of each are needed")
    inputs = np.vstack([reference, live]).astype(float)
    labels = np.repeat([0, 1], [len(reference), len(live)])
    return np.where(np.isfinite(inputs), inputs, np.nan), labels


def _folds(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, labels)


def _fitted(inputs: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    model = LGBMClassifier(
        n_estimators=60, num_leaves=15, learning_rate=0.1, min_child_samples=20, n_jobs=1, random_state=seed, verbose=-1
    )
    return model.fit(inputs, labels)


def _auc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """AUC, its variance when labels say nothing (Mann-Whitney with ties), and its variance by DeLong."""
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
