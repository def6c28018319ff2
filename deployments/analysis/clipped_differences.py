"""Differences of clipped losses, for an exact test while there are too few rows for an asymptotic one. Pure.

A loss counts as at most CLIP, so the differences of two are in [-CLIP, CLIP] and can be bet on (sequential_tests.py).
What such a bet shows is about clipped losses: it does not see by how much a loss exceeds CLIP. So it may blame a
challenger with a higher clipped loss and a lower loss: one with more mistakes than the champion, but none as bad.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from cluster.row_losses import Metric
from cluster.values import Frozen, Task

MOST_ROWS = 50
"""Rows up to which the differences are kept; from there on the asymptotic sequence is used."""
CLIP = 3.0
"""Nats: the loss of a label whose predicted probability is 5%."""


class ClippedDifferences(Frozen):
    """The challenger's clipped loss less the champion's, of each row, as a fraction of CLIP."""

    n: int = 0
    """Rows."""
    values: tuple[float, ...] = ()
    """A value in [-1, 1] for each row; empty beyond MOST_ROWS."""

    @classmethod
    def from_losses(cls, task: Task, champion: np.ndarray, challenger: np.ndarray, metric: Metric) -> Self:
        """Compute from the losses [n] of both variants; without values where losses are not in nats."""
        n = champion.size
        if task.kind == "regression" or metric != "loss" or n > MOST_ROWS:
            return cls(n=n)
        differences = (np.minimum(challenger, CLIP) - np.minimum(champion, CLIP)) / CLIP
        return cls(n=n, values=tuple(differences.tolist()))

    def __add__(self, other: ClippedDifferences) -> ClippedDifferences:
        n = self.n + other.n
        return ClippedDifferences(n=n, values=self.values + other.values if n <= MOST_ROWS else ())
