"""Shapley values of any model by sampled orders of its features, with their standard errors.

A walk starts at a background row and takes over the explained row's features one by one; each feature gets the
differences of the score where it is taken over (Štrumbelj and Kononenko 2014). Each order is walked in both directions
(antithetic permutations: Mitchell et al. 2022, "Sampling Permutations for Shapley Value Estimation"). Each background
row has the same number of walks, so that the base is the mean score of the background, and contributions add up to the
score exactly. Orders are drawn once: the same row always has the same explanation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from features.attributions.contributions import Contributions, FeatureLocation
from features.encoder import Arrays

ScoreFunction = Callable[[Arrays], np.ndarray]
"""Encoded rows in, scores of these rows out (cluster.values.Task)."""

EVALUATIONS = 3840
"""Rows that the model scores for one explanation, unless the model has more than some 120 features."""
MIN_BACKGROUND = 8
"""Background rows that explanations of the widest models start from."""
_MIN_ORDERS, _MAX_ORDERS = 2, 64
"""Orders of each background row; how they differ gives the standard error."""
_CALL_ROWS = 512
"""Rows of one call of a model: values between layers stay in a core's cache."""


class SampledExplainer:
    """Contributions of one model by samples.

    Args:
        score: The model.
        background: Encoded rows to start from, in random order.
        locations: Where the encoded arrays hold each feature.
        seed: Seed of the orders.
    """

    def __init__(
        self, score: ScoreFunction, background: Arrays, locations: dict[str, FeatureLocation], seed: int = 0
    ) -> None:
        self._score, features = score, len(locations)
        rows = min(background_size(features), len(background["numbers"]))
        generator = np.random.default_rng(seed)
        count = EVALUATIONS // (2 * rows * max(1, features - 1))
        self._orders_per_row = max(_MIN_ORDERS, min(count, _MAX_ORDERS))
        orders = [generator.permutation(features) for _ in range(rows * self._orders_per_row)]
        self._walks = np.array([walk for order in orders for walk in (order, order[::-1])])
        self._starts = np.repeat(np.arange(rows), 2 * self._orders_per_row)
        self._background = {name: values[:rows] for name, values in background.items()}
        self._start_scores = self._run(self._background)[self._starts]
        self._position = np.argsort(self._walks, axis=1)
        self._feature_of = {
            name: np.repeat(
                [i for i, each in enumerate(locations.values()) if each.array == name],
                [each.columns.stop - each.columns.start for each in locations.values() if each.array == name],
            ).astype(np.int64)
            for name in background
        }

    def explain(self, row: Arrays, output: int) -> Contributions:
        """Contributions to an output of one encoded row, in the unit of the score."""
        walks, features = self._walks.shape
        # Made a few rows at a time: all of them together grow with the square of the features.
        steps_between = np.arange(walks * (features - 1))
        calls = (self._between(row, steps_between[at : at + _CALL_ROWS]) for at in _starts(len(steps_between)))
        scores = [self._run(call)[:, output] for call in calls]
        inner = np.concatenate([np.empty(0), *scores]).reshape(walks, features - 1)
        start, end = self._start_scores[:, output], np.full(walks, self._run(row)[0, output])
        steps = np.diff(np.column_stack([start, inner, end]), axis=1)
        parts = np.empty((walks, features))
        np.put_along_axis(parts, self._walks, steps, axis=1)
        by_order = parts.reshape(-1, self._orders_per_row, 2, features).mean(axis=2)
        # Variance of a mean over strata, the background rows (Cochran 1977, "Sampling Techniques", section 5.4).
        spread = by_order.var(axis=1, ddof=1) / self._orders_per_row
        errors = np.sqrt(spread.sum(axis=0)) / len(spread)
        return Contributions(float(start.mean()), parts.mean(axis=0), errors)

    def _between(self, row: Arrays, steps: np.ndarray) -> Arrays:
        """Rows between start and end: step s of a walk has taken over the features at the positions up to s."""
        walk, step = np.divmod(steps, self._walks.shape[1] - 1)
        taken, starts = self._position[walk] <= step[:, None], self._starts[walk]
        return {
            name: np.where(taken[:, self._feature_of[name]], row[name], values[starts])
            for name, values in self._background.items()
        }

    def _run(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows, float64 [rows, outputs]."""
        rows = len(arrays["numbers"])
        calls = ({name: values[at : at + _CALL_ROWS] for name, values in arrays.items()} for at in _starts(rows))
        parts = [np.asarray(self._score(call), np.float64) for call in calls]
        return np.concatenate(parts).reshape(rows, -1)


def background_size(features: int) -> int:
    """Background rows for which explanations of a model with so many features stay within EVALUATIONS."""
    return max(MIN_BACKGROUND, EVALUATIONS // (2 * _MIN_ORDERS * max(1, features - 1)))


def _starts(rows: int) -> range:
    return range(0, rows, _CALL_ROWS)
