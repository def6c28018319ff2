"""The columns that estimators take: standardized numbers and an indicator for each code, or numbers and ordered codes.

Trees compare numbers as they are and send missing ones to a side that they learn. Their codes are ordered once, before
training, by the labels of the rows that have them (Wright and König 2019, "Splitting on categorical predictors in
random forests", PeerJ 7:e6339): for two classes and for regression no split on sets of codes at the root is better
than one on this order (Fisher 1958); for more classes the order is along the first principal component of the shares
of classes (Coppersmith et al. 1999).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.encoder import Arrays
from trainers.input_spec import CLIP_STD, InputSpec

_PRIOR_ROWS = 1.0
"""Rows with the mean label that each code has in addition: a code without rows is in the middle."""
_LARGEST = 1e30
"""Larger numbers count as this one: scikit-learn refuses infinite ones, and sums of columns."""


def order_codes(
    codes: np.ndarray, cardinalities: Sequence[int], targets: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """The rank of each code of each category, along which labels rise.

    Args:
        codes: Codes of the training rows, [n, c].
        cardinalities: Number of codes of each category, [c].
        targets: Labels, or for several classes ones and zeros by class, [n, k].
        weights: Weights of the rows, [n]; None weights all equally.
    """
    weights = np.ones(len(codes)) if weights is None else weights.astype(np.float64)
    mean = np.average(targets, axis=0, weights=weights)
    ranks = []
    for i, size in enumerate(cardinalities):
        rows = np.bincount(codes[:, i], weights, size)
        sums = np.stack([np.bincount(codes[:, i], weights * target, size) for target in targets.T], axis=1)
        means = (sums + _PRIOR_ROWS * mean) / (rows + _PRIOR_ROWS)[:, None]
        order = np.argsort(_along_first_component(means - mean, rows), kind="stable")
        ranks.append(np.argsort(order, kind="stable").astype(np.float32))
    return tuple(ranks)


def tree_columns(arrays: Arrays, ranks: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers, then the ranks of codes, float32."""
    numbers = np.clip(arrays["numbers"], -_LARGEST, _LARGEST)
    return np.column_stack([numbers, *(rank[arrays["codes"][:, i]] for i, rank in enumerate(ranks))])


def dense_columns(arrays: Arrays, inputs: InputSpec) -> np.ndarray:
    """Standardized numbers, where a missing one is the mean; a flag for each column that had missing numbers in
    training; and one of each category's columns, by code. float64, from float32 as the exported graph computes it."""
    mean, std = (np.asarray(values, np.float32) for values in (inputs.mean, inputs.std))
    absent = np.isnan(arrays["numbers"])
    scaled = np.clip((arrays["numbers"] - mean) / std, -CLIP_STD, CLIP_STD)
    codes = [arrays["codes"][:, [i]] == np.arange(size) for i, size in enumerate(inputs.cardinalities)]
    return np.column_stack([np.where(absent, 0.0, scaled), absent[:, list(inputs.missing)], *codes]).astype(np.float64)


def _along_first_component(means: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions of codes, [codes], along the direction in which their means [codes, k] vary most."""
    if means.shape[1] == 1:
        return means[:, 0]
    component = np.linalg.svd(np.sqrt(rows)[:, None] * means, full_matrices=False)[2][0]
    return means @ (component * np.sign(component[np.abs(component).argmax()]))
