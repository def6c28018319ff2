"""The trees in an XGBoost model file (JSON), read without XGBoost.

The format is that of https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html. A number goes left where it
is less than the condition; a code goes right where it is among the categories of the split.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from cluster.errors import DataError
from trainers.trees.forest import Forest, Tree

_LEAF = -1


def read_forest(text: bytes) -> Forest:
    """The forest of a model file.

    Raises:
        DataError: The model is not a sum of scalar trees.
    """
    learner = json.loads(text)["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise DataError("data.tree_unsupported", what=f"the booster {booster['name']}")
    model, parameters = booster["model"], learner["learner_model_param"]
    outputs = max(1, int(parameters["num_class"]))
    # One number, or since XGBoost 3.1 a list.
    scores = np.atleast_1d(json.loads(parameters["base_score"].lower())).astype(np.float64)
    if learner["objective"]["name"] == "binary:logistic":
        scores = np.log(scores / (1 - scores))
    base = tuple(np.broadcast_to(scores, outputs).tolist())
    pairs = zip(model["trees"], model["tree_info"], strict=True)
    return Forest(tuple(_tree(tree, target) for tree, target in pairs), base)


def _tree(fields: dict[str, Any], target: int) -> Tree:
    left, right = np.array(fields["left_children"]), np.array(fields["right_children"])
    conditions = np.array(fields["split_conditions"], np.float32)
    is_leaf = left == _LEAF
    splits, leaves = np.flatnonzero(~is_leaf), np.flatnonzero(is_leaf)
    # Nodes are numbered together; forest.Tree numbers splits and leaves apart.
    number = np.empty(len(left), int)
    number[splits], number[leaves] = np.arange(len(splits)), -1 - np.arange(len(leaves))
    segments = zip(fields["categories_nodes"], fields["categories_segments"], fields["categories_sizes"], strict=True)
    categories = {
        int(number[node]): frozenset(fields["categories"][start : start + size]) for node, start, size in segments
    }
    # The categories of a split go right, so its children change sides.
    swapped = np.isin(np.arange(len(splits)), list(categories))
    lefts, rights = number[left[splits]], number[right[splits]]
    return Tree(
        features=np.array(fields["split_indices"])[splits],
        thresholds=np.nextafter(conditions[splits], np.float32(-np.inf)),
        missing_left=np.array(fields["default_left"])[splits].astype(bool) ^ swapped,
        left=np.where(swapped, rights, lefts),
        right=np.where(swapped, lefts, rights),
        leaves=conditions[leaves].astype(np.float64),
        covers=np.array(fields["sum_hessian"], np.float64)[leaves],
        target=target,
        categories=categories,
    )
