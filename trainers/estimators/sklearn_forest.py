"""Trees of scikit-learn as a forest, for the exact graph and for TreeSHAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainers.trees.forest import Forest, Tree, float32_below


def read_forest(estimator: Any, ranks: Sequence[np.ndarray], width: int, opposite: bool) -> Forest:
    """Describe fitted trees, whose mean is a probability for each class, or the standardized label.

    Args:
        estimator: A tree, or an ensemble of them.
        ranks: Rank of each code of each category.
        width: Number columns, which come before the categories.
        opposite: Whether two classes have an output each, the second class first, in place of one for the second.
    """
    trees = getattr(estimator, "estimators_", [estimator])
    read = tuple(_read_tree(each.tree_, ranks, width, opposite, len(trees)) for each in trees)
    outputs = 1 if read[0].leaves.ndim == 1 else read[0].leaves.shape[1]
    return Forest(read, (0.0,) * outputs, of_probabilities=hasattr(estimator, "classes_"))


def _read_tree(tree: Any, ranks: Sequence[np.ndarray], width: int, opposite: bool, trees: int) -> Tree:
    split = tree.children_left >= 0
    # Position of each node among the splits, or among the leaves as children are numbered.
    place = np.where(split, np.cumsum(split) - 1, -np.cumsum(~split))
    features, thresholds = tree.feature[split].astype(np.int64), float32_below(tree.threshold[split])
    values = tree.value[~split, 0, :] / trees
    if values.shape[1] == 2:
        values = values[:, ::-1] if opposite else values[:, 1:]
    return Tree(
        features=features,
        thresholds=thresholds,
        missing_left=tree.missing_go_to_left[split].astype(bool),
        left=place[tree.children_left[split]],
        right=place[tree.children_right[split]],
        leaves=values[:, 0] if values.shape[1] == 1 else values,
        covers=tree.weighted_n_node_samples[~split],
        target=0,
        categories={
            i: frozenset(np.flatnonzero(ranks[features[i] - width] <= thresholds[i]).tolist())
            for i in np.flatnonzero(features >= width).tolist()
        },
    )
