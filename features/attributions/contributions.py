"""How much each input column of a model contributes to one score, and how explainers say so."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

from features.definitions import Column
from features.encoder import Arrays, tensor_slices

Method = Literal["treeshap", "linear", "sampled"]
"""treeshap and linear are exact; sampled has a standard error."""
Unit = Literal["log-odds", "logit", "probability", "value"]
"""In which contributions add up: log-odds of the positive class, the explained class's input to the softmax, the
probability itself, or a regression's label."""


class Contributions(NamedTuple):
    """Contributions to one output of one row, which add up from ``base``."""

    base: float
    """What the model gives on average, before the row's values are known."""
    parts: np.ndarray
    """Contribution of each feature, [features]."""
    errors: np.ndarray | None = None
    """Standard error of each contribution, [features]; None: they are exact."""

    @property
    def total(self) -> float:
        """Base and contributions together."""
        return self.base + float(self.parts.sum())


class RowExplainer(Protocol):
    """Computes contributions with one method."""

    def explain(self, row: Arrays, output: int) -> Contributions:
        """Contributions to an output of one encoded row."""


class EncodedColumns(Protocol):
    """Names of encoded columns: an Encoder or an InputSpec."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Number columns."""

    @property
    def tensors(self) -> tuple[Column, ...]:
        """Tensor columns."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Category columns."""


class FeatureLocation(NamedTuple):
    """The encoded array that holds a feature, and the columns that it fills."""

    array: str
    columns: slice


def feature_locations(inputs: EncodedColumns) -> dict[str, FeatureLocation]:
    """Where the encoded arrays hold each feature."""
    numbers = {name: FeatureLocation("numbers", slice(i, i + 1)) for i, name in enumerate(inputs.numbers)}
    slices = tensor_slices(inputs.tensors, len(inputs.numbers))
    tensors = {column.name: FeatureLocation("numbers", place) for column, place in slices}
    codes = {name: FeatureLocation("codes", slice(i, i + 1)) for i, name in enumerate(inputs.categories)}
    return numbers | tensors | codes


def feature_of_columns(locations: dict[str, FeatureLocation]) -> np.ndarray:
    """Index of the feature that fills each encoded column, numbers before codes, [columns]."""
    return np.repeat(np.arange(len(locations)), [each.columns.stop - each.columns.start for each in locations.values()])
