"""Exact contributions of linear models.

The score's unit is a sum of one term for each encoded column. The Shapley value of a column is then its term minus the
term's mean over the training rows (Lundberg and Lee 2017, "A Unified Approach to Interpreting Model Predictions",
corollary 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.attributions.contributions import Contributions
from features.encoder import Arrays


class AdditiveTerms(NamedTuple):
    """A linear model of standardized numbers and of a table for each category."""

    mean: np.ndarray
    """Of each column of ``numbers``."""
    std: np.ndarray
    clip: np.ndarray
    """Standard deviations to which standardized numbers are clipped, [1]."""
    weight: np.ndarray
    """[outputs, numbers]."""
    missing: np.ndarray
    """Term of a missing number, [outputs, numbers]."""
    tables: np.ndarray
    """Terms of all codes of all categories, one category after another, [outputs, codes]."""
    first_code: np.ndarray
    """Where the table of each category begins."""
    bias: np.ndarray
    """[outputs]."""
    center: np.ndarray
    """Mean of each column's term over the training rows, [outputs, columns]."""

    def terms(self, arrays: Arrays, output: int) -> np.ndarray:
        """Terms of encoded rows, [rows, columns]."""
        scaled = np.clip((arrays["numbers"].astype(np.float64) - self.mean) / self.std, -self.clip, self.clip)
        numbers = np.where(np.isnan(scaled), self.missing[output], scaled * self.weight[output])
        return np.hstack([numbers, self.tables[output][self.first_code + arrays["codes"]]])


class LinearExplainer:
    """Contributions of one linear model.

    Args:
        terms: The model.
        feature_of_column: Index of the feature that fills each encoded column.
    """

    def __init__(self, terms: AdditiveTerms, feature_of_column: np.ndarray) -> None:
        self._terms, self._features = terms, feature_of_column

    def explain(self, row: Arrays, output: int) -> Contributions:
        """Contributions to an output of one encoded row, in the unit of the terms."""
        center = self._terms.center[output]
        parts = self._terms.terms(row, output)[0] - center
        base = float(self._terms.bias[output] + center.sum())
        return Contributions(base, np.bincount(self._features, parts, int(self._features[-1]) + 1))
