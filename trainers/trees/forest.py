"""A fitted ensemble of trees, whatever library fitted it: the form from which the ONNX graph is written, and scores are
explained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

PROBABILITY_FLOOR = 1e-7
"""Below it probabilities of a forest have the logarithm of this one (as in trainers/evaluation/calibration.py)."""


class Tree(NamedTuple):
    """One tree as arrays over its splits and its leaves.

    Children are numbered as LightGBM and scikit-learn number them: a child >= 0 is a split, and -1 - i is leaf i. A
    tree without splits is its leaf 0. A row goes to the left child where its value is at most ``thresholds``, or where
    its code is among ``categories``.
    """

    features: np.ndarray
    """Column of the encoded row that each split tests: numbers first, then codes."""
    thresholds: np.ndarray
    """float32, so that the float32 inputs compare as they did in the library; unused where a split has categories."""
    missing_left: np.ndarray
    """Whether NaN goes left; where a split has categories, whether a missing value that has no code does."""
    left: np.ndarray
    right: np.ndarray
    leaves: np.ndarray
    """Value of each leaf; [leaves, k]: for each of the k outputs from ``target`` on."""
    covers: np.ndarray
    """Training rows of each leaf, as the library weights them."""
    target: int
    """The output that the tree adds to."""
    categories: dict[int, frozenset[int]]
    """Codes that go left, by position of the split."""

    def split_outputs(self) -> Iterator[Tree]:
        """The tree, once for each output that its leaves have values for."""
        for k, values in enumerate(self.leaves.reshape(len(self.leaves), -1).T):
            yield self._replace(leaves=values, target=self.target + k)


class Forest(NamedTuple):
    """Trees whose values add up to outputs: logits, or the standardized label of a regression."""

    trees: tuple[Tree, ...]
    base: tuple[float, ...]
    """What each output starts from."""
    of_probabilities: bool = False
    """Whether the outputs are probabilities, and not logits."""

    @classmethod
    def join(cls, forests: Iterable[Forest]) -> Forest:
        """Forests side by side: the outputs of each follow those of the one before."""
        trees: list[Tree] = []
        base: list[float] = []
        of_probabilities = False
        for forest in forests:
            trees += [tree._replace(target=tree.target + len(base)) for tree in forest.trees]
            base += forest.base
            of_probabilities |= forest.of_probabilities
        return cls(tuple(trees), tuple(base), of_probabilities)


def float32_below(values: np.ndarray) -> np.ndarray:
    """The largest float32 that is at most each value.

    For a float32 ``x`` and a float64 ``t``, ``x <= t`` holds exactly where ``x <= float32_below(t)`` does: thresholds
    of a library that compares in double precision keep their meaning, also for values equal to them.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
        return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
