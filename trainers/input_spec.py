"""Description of a model's inputs: names, sizes, and statistics of the training rows."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from cluster.errors import DataError
from cluster.values import Frozen, Task
from features.definitions import Column
from features.encoder import Arrays, Encoder

CLIP_STD = 5.0
"""Standardized numbers are clipped to this many standard deviations."""
TAIL = 0.001
"""Quantile at which each tail of a column is clipped before its mean and standard deviation are measured."""


class InputSpec(Frozen):
    """Shapes and statistics of ``numbers`` [n, width] and ``codes`` [n, len(cardinalities)]."""

    numbers: tuple[str, ...]
    """Names of the scalar columns."""
    tensors: tuple[Column, ...]
    """Tensor columns, flattened behind the scalars."""
    categories: tuple[str, ...]
    """Names of the categorical columns."""
    cardinalities: tuple[int, ...]
    """Codes of each categorical column."""
    mean: tuple[float, ...]
    """Mean of each column of ``numbers`` over the training rows, clipped to its 0.1 and 99.9 percent quantiles, so that
    a few outliers do not set the scale."""
    std: tuple[float, ...]
    """Standard deviation of each column, clipped in the same way."""
    missing: tuple[int, ...]
    """Indices of the columns with missing values in training."""
    label_mean: float = 0.0
    """Mean of a regression's label; the model predicts the standardized label."""
    label_std: float = 1.0
    """Standard deviation of a regression's label."""
    class_shares: tuple[float, ...] = ()
    """Share of training rows in each class (multi-label: with each label)."""
    logit_shift: tuple[float, ...] = Field(default=(), exclude_if=lambda shift: not shift)
    """What synthetic rows of rare classes add to each logit, and scores leave out (King and Zeng 2001, "Logistic
    Regression in Rare Events Data", section 4.1: prior correction); empty without such rows."""

    @property
    def width(self) -> int:
        """Columns of ``numbers``, including flattened tensors."""
        return len(self.mean)

    @classmethod
    def fit(
        cls, encoder: Encoder, task: Task, arrays: Arrays, labels: np.ndarray, weights: np.ndarray | None = None
    ) -> Self:
        """Measure training rows.

        Args:
            encoder: The fitted encoder.
            task: The task.
            arrays: Encoded training rows.
            labels: Their labels.
            weights: How much each row counts in the shares of classes; None: all alike.

        Raises:
            DataError: There are no rows, no columns, or not as many labels per row as declared.
        """
        if not len(labels):
            raise DataError("data.empty_split", split="train")
        if not encoder.width and not encoder.categories:
            raise DataError("data.no_input_columns")
        mean, std = _moments(arrays["numbers"])
        label_mean, label_std = (labels.mean(), labels.std()) if task.kind == "regression" else (0.0, 1.0)
        return cls(
            numbers=encoder.numbers,
            tensors=encoder.tensors,
            categories=encoder.categories,
            cardinalities=encoder.cardinalities,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            missing=tuple(np.flatnonzero(np.isnan(arrays["numbers"]).any(axis=0)).tolist()),
            label_mean=float(label_mean),
            label_std=float(label_std) or 1.0,
            class_shares=_class_shares(task, labels, weights),
        )


def _class_shares(task: Task, labels: np.ndarray, weights: np.ndarray | None) -> tuple[float, ...]:
    if task.kind == "regression":
        return ()
    if task.kind == "multilabel":
        if labels.shape[1:] != (task.outputs,):
            raise DataError("data.label_count", shape=labels.shape[1:], classes=task.outputs)
        return tuple(labels.mean(axis=0, dtype=np.float64).tolist())
    classes = 2 if task.kind == "binary" else task.outputs
    total = len(labels) if weights is None else weights.sum(dtype=float)
    return tuple((np.bincount(labels.astype(int), weights, classes) / total).tolist())


def _moments(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, tails clipped; std 1 where all values are equal or none is finite."""
    mean, std = np.zeros(numbers.shape[1]), np.ones(numbers.shape[1])
    for i, column in enumerate(numbers.T):
        finite = column[np.isfinite(column)].astype(np.float64)
        if len(finite):
            clipped = np.clip(finite, *np.quantile(finite, [TAIL, 1 - TAIL]))
            mean[i], std[i] = clipped.mean(), clipped.std() or 1.0
    return mean, std
