"""Rates of a model's decisions by group of rows, and limits of their differences. Pure.

Demographic parity compares the rate of positive decisions, equalized odds those of true and of false positives (Hardt,
Price, Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016). The gate, the monitor and rollouts must
mean the same rates, because people compare them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster.row_losses import DECISION_THRESHOLD
from cluster.values import Frozen, Task

Rate = Literal["positive", "true_positive", "false_positive", "error"]
"""Share of rows with a positive decision: of all, of those with a positive label, of those with a negative one. error:
share of labeled rows with a wrong decision, the only rate of a multiclass task."""

MISSING = "missing"
"""Group of the rows without a value."""


class DisparityLimit(Frozen):
    """How far a rate may differ between the groups of a column, in live traffic."""

    column: str
    """A request column or feature, of kind category."""
    rate: Rate
    max_difference: float = Field(gt=0, le=1)
    """Largest difference between two groups."""
    groups: tuple[str, ...] = Field(min_length=2)
    """Values that are compared; fixed beforehand, since the error rate is divided among them."""
    threshold: float = Field(default=DECISION_THRESHOLD, gt=0, lt=1)
    """Score from which a binary decision is positive."""
    min_rows: int = Field(default=200, ge=2)
    """Rows that a group needs to be compared."""

    @property
    def name(self) -> str:
        """Name of the limit, such as "true positive rate by origin"."""
        return f"{self.rate.replace('_', ' ')} rate by {self.column}"


def group_names(column: pa.ChunkedArray) -> np.ndarray:
    """The group of each row, as text [n]."""
    return np.asarray(column.cast(pa.string()).fill_null(MISSING).to_numpy(), dtype=object)


def rate_hits(limit: DisparityLimit, task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows count as hits of a rate.

    Args:
        limit: Rate and threshold.
        task: Task of the model: binary or multiclass.
        scores: Scores, as cluster.values.Task says.
        labels: Labels [n]; NaN where there is none.

    Returns:
        Floats [n]: 1 for a hit, 0 for none, NaN for a row that is not in the rate.
    """
    chosen = scores.argmax(axis=1) if task.kind == "multiclass" else scores >= limit.threshold
    if limit.rate == "positive":
        return chosen.astype(float)
    if limit.rate == "error":
        return np.where(np.isfinite(labels), chosen != labels, np.nan)
    return np.where(labels == (limit.rate == "true_positive"), chosen, np.nan)
