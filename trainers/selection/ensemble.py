"""Which trained models answer together: greedy selection with replacement, and what it is worth on other rows.

A model is added as long as the mean of all scores loses least on the validation rows; one that is added twice has
twice the weight (Caruana et al. 2004, "Ensemble Selection from Libraries of Models", sections 2 and 2.2).

The loss on the rows that selected is too low. ``corrected_losses`` repeats the selection on bootstrap samples and
measures each result on the rows that its sample lacks (Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the
out-of-sample predictions for efficient and accurate cross-validation", Machine Learning 107, algorithm 5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainers.evaluation.bootstrap import Interval

STEPS = 16
"""Additions; a weight is a multiple of a sixteenth or more."""
LIBRARY = 8
"""Models that are considered, the best by themselves; more of them mostly fit the noise (Caruana et al. 2004, 2.3)."""
RESAMPLES, ALPHA = 200, 0.05

RowLosses = Callable[[np.ndarray], np.ndarray]
"""From scores of the validation rows, [n] or [n, classes], their losses [n]."""


def select(scores: np.ndarray, losses: RowLosses, members: int) -> np.ndarray:
    """The best ensembles of at most 1, 2, ..., ``members`` models.

    Args:
        scores: Scores of the validation rows by each model, [models, n] or [models, n, classes].
        losses: Losses of the rows from their scores.
        members: Most models of the largest ensemble.

    Returns:
        Weight of each model in each ensemble, [members, models]; rows repeat where a further model would not help.
    """
    return _select(scores, losses, members, _alone(scores, losses), np.ones(scores.shape[1]))


def _alone(scores: np.ndarray, losses: RowLosses) -> np.ndarray:
    """Losses of the rows by each model alone, [models, n]."""
    return np.stack([losses(each) for each in scores])


def _select(scores: np.ndarray, losses: RowLosses, members: int, alone: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As ``select``, where each row counts as often as ``weights`` [n] say."""
    library = np.argsort(alone @ weights, kind="stable")[:LIBRARY]
    counts, total = np.zeros(len(scores)), np.zeros_like(scores[0], dtype=np.float64)
    best, chosen = np.full(members, np.inf), np.zeros((members, len(scores)))
    for step in range(1, STEPS + 1):
        full = np.count_nonzero(counts) == members
        allowed = [model for model in library if counts[model] or not full]
        values = [losses((total + scores[model]) / step) @ weights for model in allowed]
        model = allowed[int(np.argmin(values))]
        counts[model] += 1
        total += scores[model]
        for size in range(np.count_nonzero(counts), members + 1):
            if min(values) < best[size - 1]:
                best[size - 1], chosen[size - 1] = min(values), counts / step
    return chosen


def corrected_losses(scores: np.ndarray, losses: RowLosses, members: int, seed: int) -> tuple[Interval, ...]:
    """Mean losses of the ensembles that ``select`` returns, corrected for the selection, with 95% intervals.

    What is repeated is the choice among the models as they were trained; that their training was stopped by the same
    rows is not.

    Args:
        scores: As for ``select``.
        losses: As for ``select``.
        members: As for ``select``.
        seed: Seed of the bootstrap samples.

    Returns:
        An interval for each size, from 1 to ``members``.
    """
    rng, rows = np.random.default_rng(seed), scores.shape[1]
    values, alone = np.empty((RESAMPLES, members)), _alone(scores, losses)
    for i in range(RESAMPLES):
        weights = np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)
        # Of one or two rows a sample may lack none.
        others = weights == 0 if not weights.all() else weights > 0
        for size, shares in enumerate(_select(scores, losses, members, alone, weights)):
            values[i, size] = losses(combine(scores, shares))[others].mean()
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    means = values.mean(axis=0)
    return tuple(Interval(value=m, low=a, high=b) for m, a, b in zip(means, low, high, strict=True))


def combine(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of scores [models, n] or [models, n, classes]; weights [models] add up to 1."""
    used = np.flatnonzero(weights)
    return np.tensordot(weights[used], scores[used].astype(np.float64), axes=1)
