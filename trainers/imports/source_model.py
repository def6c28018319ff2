"""A model that was trained elsewhere: what an import needs of it, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
import polars as pl

from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder

InputKind = Literal["number", "category"]
MISSING_TEXT = ""
"""What stands for a missing category in a model's text inputs: ONNX has no missing string."""


class Signature(NamedTuple):
    """What a model takes and returns, as far as its file says."""

    names: tuple[str, ...]
    """Its input columns in order; empty when they are known by position only."""
    width: int
    """Number of input columns; 0: it takes any number."""
    kinds: Mapping[str, InputKind]
    """Kinds of input columns, where the file says them."""
    classes: tuple[str, ...]
    """Its classes in the order of its outputs; empty when it has none, or does not name them."""
    is_classifier: bool | None
    """None: the file does not say."""


class SourceModel(Protocol):
    """A model in its own format and library."""

    @property
    def format(self) -> str:
        """Name of its format."""

    @property
    def signature(self) -> Signature:
        """What it takes and returns."""

    def with_names(self, names: tuple[str, ...]) -> SourceModel:
        """The same model with names for its input columns, in their order."""

    def with_classes(self, classes: tuple[str, ...]) -> SourceModel:
        """The same model with names for its classes, in the order of its outputs."""

    def vocabularies(self, columns: tuple[Column, ...]) -> dict[str, tuple[str, ...]]:
        """The values of each category column that the model tells apart."""

    def outputs(self, rows: pl.DataFrame) -> np.ndarray:
        """What the model itself returns for rows of its columns, float64 [n, outputs]: probabilities, or values."""

    def to_onnx(self, encoder: Encoder, task: Task) -> bytes:
        """The model as trainers.fitted_model.GraphModel describes it."""


def pick_outputs(task: Task, classes: tuple[str, ...], width: int) -> list[int] | None:
    """Which outputs of a model are the scores of a task.

    Args:
        task: The task; a multiclass one names its classes.
        classes: Classes of the outputs in order; empty: those of the task.
        width: Number of outputs.

    Returns:
        Positions of outputs, in the order of the scores; None when the outputs do not fit the task.
    """
    if task.kind == "multiclass":
        order = classes or task.classes
        fits = len(order) == width and set(task.classes) == set(order)
        return [order.index(name) for name in task.classes] if fits else None
    if width == 1:
        return [0]
    # The second class is the positive one, as scikit-learn has it.
    return [1] if task.kind == "binary" and width == 2 else None


def choose_scores(task: Task, classes: tuple[str, ...], outputs: np.ndarray) -> np.ndarray | None:
    """Scores of a task, float64 as cluster.values.Task describes, from a model's outputs; None: they do not fit."""
    picked = pick_outputs(task, classes, outputs.shape[1])
    if picked is None:
        return None
    scores = outputs[:, picked]
    return scores if task.wide else scores[:, 0]
