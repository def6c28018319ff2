"""What a model is told about its inputs: names, sizes, and statistics of the training rows."""

from __future__ import annotations

from typing import Self

import numpy as np

from cluster.errors import DataError
from cluster.values import Frozen, Task
from features.definitions import Column
from features.encoder import Arrays, Encoder

TAIL = 0.001


class InputSpec(Frozen):
    """Shapes and statistics of ``numbers`` [n, width] and ``codes`` [n, len(cardinalities)].

    ``mean`` and ``std`` are those of the training rows with each column clipped to its 0.1 and 99.9 per cent quantiles,
    so that a few outliers do not set the scale. ``missing`` indexes the columns that had missing values in training.
    A regression model predicts the label standardised by ``label_mean`` and ``label_std``. ``class_shares`` are the shares of
    training rows in each class (multi-label: with each label).
    """

    numbers: tuple[str, ...]
    tensors: tuple[Column, ...]
    categories: tuple[str, ...]
    cardinalities: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing: tuple[int, ...]
    label_mean: float = 0.0
    label_std: float = 1.0
    class_shares: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Columns of ``numbers``, flattened tensors included."""
        return len(self.mean)

    @classmethod
    def fit(cls, encoder: Encoder, task: Task, arrays: Arrays, labels: np.ndarray) -> Self:
        """Measure training rows. Raises DataError when there is no row or no column."""
        if not len(labels):
            raise DataError("there are no training rows", "does the frame's 'split' column say 'train' anywhere?")
        if not encoder.width and not encoder.categories:
            raise DataError("the feature set gives the model no column")
        mean, std = _moments(arrays["numbers"])
        centre, spread = (labels.mean(), labels.std()) if task.kind == "regression" else (0.0, 1.0)
        return cls(
            numbers=encoder.numbers,
            tensors=encoder.tensors,
            categories=encoder.categories,
            cardinalities=encoder.cardinalities,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            missing=tuple(np.flatnonzero(np.isnan(arrays["numbers"]).any(axis=0)).tolist()),
            label_mean=float(centre),
            label_std=float(spread) or 1.0,
            class_shares=_class_shares(task, labels),
        )


def _class_shares(task: Task, labels: np.ndarray) -> tuple[float, ...]:
    if task.kind == "regression":
        return ()
    if task.kind == "multilabel":
        if labels.shape[1:] != (task.outputs,):
            raise DataError(f"rows have {labels.shape[1:]} labels, and {task.outputs} are declared as 'classes'")
        return tuple(labels.mean(axis=0, dtype=np.float64).tolist())
    classes = 2 if task.kind == "binary" else task.outputs
    return tuple((np.bincount(labels.astype(int), minlength=classes) / len(labels)).tolist())


def _moments(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per column between its tails; 0 and 1 where nothing is finite or all is equal."""
    mean, std = np.zeros(numbers.shape[1]), np.ones(numbers.shape[1])
    for i, column in enumerate(numbers.T):
        finite = column[np.isfinite(column)].astype(np.float64)
        if len(finite):
            kept = np.clip(finite, *np.quantile(finite, [TAIL, 1 - TAIL]))
            mean[i], std[i] = kept.mean(), kept.std() or 1.0
    return mean, std
