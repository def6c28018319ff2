"""What the training loop of trees needs of a library, and the library that a model names."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from cluster.values import TaskKind
from features.encoder import Arrays


class BoostingRows(NamedTuple):
    """Training rows of one objective: a label for each row."""

    arrays: Arrays
    labels: np.ndarray
    """0 or 1 (binary), the class (multiclass), or the standardized value (regression)."""
    weights: np.ndarray | None
    """Of each row; None weights all equally."""
    kind: TaskKind
    classes: int
    """Logits of the objective: 1, or the classes of a multiclass task."""


class Booster(Protocol):
    """A boosted ensemble that grows."""

    @property
    def rounds(self) -> int:
        """Rounds so far."""

    def grow(self) -> bool:
        """Train one round; returns whether another one can add anything."""

    def loss(self) -> float:
        """Mean loss of the training rows."""

    def logits(self, arrays: Arrays, start: int, rounds: int) -> np.ndarray:
        """What at most ``rounds`` rounds from ``start`` on add to the logits of encoded rows, float64 [n, classes]."""

    def save(self, rounds: int) -> bytes:
        """The model after its first ``rounds`` rounds, in the library's own format."""


def join_arrays(arrays: Arrays) -> np.ndarray:
    """Numbers, then codes, as float32; a missing category is a code of its own, as in features/encoder.py."""
    return np.hstack([arrays["numbers"], arrays["codes"].astype(np.float32)])
