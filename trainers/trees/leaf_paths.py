"""From the trees of a forest to the conditions of its leaves, from which scores are explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from features.attributions.tree_shap import LeafPaths
from trainers.trees.forest import Forest, Tree

MAX_CONDITIONS = 500_000
"""Conditions that are evaluated in some ten milliseconds; a larger forest is explained by samples."""


class _Condition(NamedTuple):
    """What the splits on one column ask on the way to a node."""

    edges: tuple[tuple[int, bool], ...] = ()
    """Split, and whether the way leads to its left child."""
    share: float = 1.0


def leaf_paths(forest: Forest, scale: float, shift: float) -> LeafPaths | None:
    """The conditions of all leaves; None where they are too many.

    Args:
        forest: The trees.
        scale: Factor from their sums to the unit of contributions.
        shift: Added to the scaled sums.
    """
    forest = forest._replace(trees=tuple(each for tree in forest.trees for each in tree.split_outputs()))
    base = np.array(forest.base, np.float64) * scale + shift
    conditions, edges, leaves = list[tuple[int, int, float]](), list[tuple[int, bool]](), list[tuple[int, float, int]]()
    first = 0
    for tree in forest.trees:
        total = tree.covers.sum()
        for leaf, path in _paths(tree):
            value = float(tree.leaves[leaf]) * scale
            base[tree.target] += value * (tree.covers[leaf] / total)
            if not path:
                continue
            leaves.append((len(path), value, tree.target))
            conditions += [(len(each.edges), column, each.share) for column, each in path.items()]
            edges += [(first + split, left) for each in path.values() for split, left in each.edges]
        first += len(tree.features)
        if len(conditions) > MAX_CONDITIONS:
            return None
    members = [(split, code) for split, codes in _members(forest) for code in sorted(codes)]
    columns = [
        *_splits(forest),
        *_columns(members, np.int32, np.int64),
        *_columns(edges, np.int32, np.bool_),
        *_columns(conditions, np.int32, np.int32, np.float64),
        *_columns(leaves, np.int32, np.float64, np.int32),
    ]
    return LeafPaths._make([*columns, base])


def _paths(tree: Tree) -> Iterator[tuple[int, dict[int, _Condition]]]:
    """Each leaf, with the condition of each column on its path."""
    covers = _split_covers(tree)
    waiting: list[tuple[int, dict[int, _Condition]]] = [(0 if len(tree.features) else -1, {})]
    while waiting:
        node, path = waiting.pop()
        if node < 0:
            yield -1 - node, path
            continue
        column = int(tree.features[node])
        before = path.get(column, _Condition())
        for child, left in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
            cover = covers[child] if child >= 0 else tree.covers[-1 - child]
            share = before.share * (cover / covers[node] if covers[node] else 0.5)
            waiting.append((child, {**path, column: _Condition((*before.edges, (node, left)), share)}))


def _split_covers(tree: Tree) -> np.ndarray:
    """Cover of each split: the sum over the leaves below it."""
    children = np.stack([tree.left, tree.right], axis=1)
    parents_first, waiting = list[int](), [0] if len(children) else []
    while waiting:
        parents_first.append(node := waiting.pop())
        waiting += [child for child in children[node].tolist() if child >= 0]
    covers = np.zeros(len(children))
    for node in reversed(parents_first):
        covers[node] = sum(covers[c] if c >= 0 else tree.covers[-1 - c] for c in children[node].tolist())
    return covers


def _splits(forest: Forest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, threshold and direction of missing values of all splits."""
    columns, thresholds, missing_left = [np.empty(0, np.int32)], [np.empty(0, np.float32)], [np.empty(0, bool)]
    for tree in forest.trees:
        categorical = np.isin(np.arange(len(tree.features)), list(tree.categories))
        columns.append(tree.features.astype(np.int32))
        thresholds.append(np.where(categorical, np.float32(-np.inf), tree.thresholds.astype(np.float32)))
        missing_left.append(tree.missing_left)
    return np.concatenate(columns), np.concatenate(thresholds), np.concatenate(missing_left)


def _members(forest: Forest) -> Iterator[tuple[int, frozenset[int]]]:
    """Each split on categories, and the codes that go left."""
    first = 0
    for tree in forest.trees:
        yield from ((first + split, codes) for split, codes in sorted(tree.categories.items()))
        first += len(tree.features)


def _columns(rows: Sequence[tuple[float, ...]], *kinds: type) -> list[np.ndarray]:
    """Columns of a list of tuples."""
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return [np.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
