"""Exact Shapley values of trees (TreeSHAP), all leaves at once.

The value of a set of known columns is the tree's mean where the other columns are unknown: at a split on an unknown
column, both children count by their shares of training rows (path-dependent TreeSHAP: Lundberg et al. 2020, "From local
explanations to global understanding with explainable AI for trees", Algorithm 2).

A leaf with value v and conditions on d columns adds to the column of condition i

    v (h_i - c_i) * integral over t in [0, 1] of the product over j != i of (h_j t + c_j (1 - t)),

where h_j is 1 if the row meets condition j, else 0, and c_j is the share of training rows that do: the integral of
t^k (1 - t)^(d-1-k) is the Shapley weight k! (d-1-k)! / d! of a set of k columns. The integrand is a polynomial of
degree d - 1, for which ceil(d / 2) points of Gauss and Legendre are exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.attributions.contributions import Contributions
from features.encoder import Arrays

_SMALLEST_SHARE = 1e-9
"""Of conditions that no training row met: the weights divide by it."""


class LeafPaths(NamedTuple):
    """A forest as conditions of leaves: what all splits on one column ask on the way to a leaf.

    A leaf without conditions, of a tree without splits, is part of ``base``.
    """

    split_column: np.ndarray
    """Encoded column that each split tests, numbers before codes."""
    split_threshold: np.ndarray
    """float32; a row goes left where its value is at most this. -inf where the split is on categories."""
    split_missing_left: np.ndarray
    """Whether NaN goes left."""
    member_split: np.ndarray
    """Split on categories that each member belongs to."""
    member_code: np.ndarray
    """Code of a category that goes left."""
    edge_split: np.ndarray
    """Split of each edge; edges of one condition are neighbors."""
    edge_left: np.ndarray
    """Whether the edge leads to the left child."""
    condition_edges: np.ndarray
    """Edges of each condition; conditions of one leaf are neighbors."""
    condition_column: np.ndarray
    """Encoded column of each condition."""
    condition_share: np.ndarray
    """Share of training rows that meet each condition, of those that reach its splits."""
    leaf_conditions: np.ndarray
    """Conditions of each leaf."""
    leaf_value: np.ndarray
    leaf_output: np.ndarray
    """The output that each leaf adds to."""
    base: np.ndarray
    """Mean of each output over the training rows, [outputs]."""


class TreeShap:
    """Contributions of one forest.

    Args:
        paths: The forest.
        feature_of_column: Index of the feature that fills each encoded column.
    """

    def __init__(self, paths: LeafPaths, feature_of_column: np.ndarray) -> None:
        self._paths, self._features = paths, feature_of_column
        self._member_column = paths.split_column[paths.member_split]
        self._outputs = [_OutputPaths(paths, output) for output in range(len(paths.base))]

    def explain(self, row: Arrays, output: int) -> Contributions:
        """Contributions to an output of one encoded row, in the unit of the leaves."""
        columns = np.concatenate([row["numbers"][0], row["codes"][0].astype(np.float32)])
        left = self._directions(columns)
        by_column = self._outputs[output].contributions(left, len(columns))
        features = int(self._features[-1]) + 1
        parts = np.bincount(self._features, by_column, features)
        return Contributions(float(self._paths.base[output]), parts)

    def _directions(self, columns: np.ndarray) -> np.ndarray:
        """Whether the row would go left at each split, [splits]."""
        paths = self._paths
        values = columns[paths.split_column]
        left = np.where(np.isnan(values), paths.split_missing_left, values <= paths.split_threshold)
        left[paths.member_split[columns[self._member_column] == paths.member_code]] = True
        return left


class _LeafGroup(NamedTuple):
    """Leaves with the same number d of conditions, with factors at q points."""

    shape: tuple[int, int]
    """d and leaves."""
    share: np.ndarray
    """[d, leaves]."""
    met: np.ndarray
    """Factor of a condition that the row meets, [d, q, leaves]."""
    unmet: np.ndarray
    """Factor of one that it does not."""
    weights: np.ndarray
    """Weight of a point times value of a leaf, [q, leaves]."""

    def contributions(self, holds: np.ndarray) -> np.ndarray:
        """Contribution of each condition, [d * leaves]."""
        held = holds.reshape(self.shape)
        factors = np.where(held[:, None, :], self.met, self.unmet)
        integrand = factors.prod(axis=0) * self.weights
        return ((integrand / factors).sum(axis=1) * (held - self.share)).ravel()


class _OutputPaths:
    """The leaves of one output, by their number of conditions."""

    def __init__(self, paths: LeafPaths, output: int) -> None:
        first_condition, first_edge = _starts(paths.leaf_conditions), _starts(paths.condition_edges)
        mine = paths.leaf_output == output
        self._groups, order = list[_LeafGroup](), list[np.ndarray]()
        for size in np.unique(paths.leaf_conditions[mine]).tolist():
            leaves = np.flatnonzero(mine & (paths.leaf_conditions == size))
            conditions = (first_condition[leaves] + np.arange(size)[:, None]).ravel()
            order.append(conditions)
            self._groups.append(_group(paths.condition_share[conditions], paths.leaf_value[leaves], size))
        conditions = np.concatenate(order) if order else np.empty(0, np.int64)
        lengths = paths.condition_edges[conditions]
        edges = np.repeat(first_edge[conditions] - _starts(lengths), lengths) + np.arange(lengths.sum())
        self._column = paths.condition_column[conditions]
        self._edge_split, self._edge_left = paths.edge_split[edges], paths.edge_left[edges]
        self._first_edge = _starts(lengths)

    def contributions(self, left: np.ndarray, columns: int) -> np.ndarray:
        """Contribution of each encoded column, [columns], for a row that goes left at the splits ``left``."""
        if not len(self._column):
            return np.zeros(columns)
        holds = np.logical_and.reduceat(left[self._edge_split] == self._edge_left, self._first_edge)
        parts, at = list[np.ndarray](), 0
        for group in self._groups:
            size = group.shape[0] * group.shape[1]
            parts.append(group.contributions(holds[at : at + size]))
            at += size
        return np.bincount(self._column, np.concatenate(parts), columns)


def _group(shares: np.ndarray, values: np.ndarray, size: int) -> _LeafGroup:
    roots, weights = np.polynomial.legendre.leggauss((size + 1) // 2)
    points = ((roots + 1) / 2)[None, :, None]
    share = np.maximum(shares, _SMALLEST_SHARE).reshape(size, len(values))
    unmet = share[:, None, :] * (1 - points)
    return _LeafGroup(share.shape, share, unmet + points, unmet, (weights / 2)[:, None] * values)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """First index of each of some neighbors of these lengths."""
    return np.cumsum(lengths, dtype=np.int64) - lengths
