"""The trees in a LightGBM model file, read without LightGBM.

The format is that of ``Tree::ToString`` in LightGBM's src/io/tree.cpp, versions v3 and v4: for each tree one line per
array. Decisions are those of ``Tree::Decision`` in include/LightGBM/tree.h.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.errors import DataError
from trainers.trees.forest import Forest, Tree, float32_below

_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_SHIFT, _MISSING_MASK = 2, 3
_MISSING_ZERO, _MISSING_NAN = 1, 2
_WORD_BITS = 32
_ZERO = float(np.float32(1e-35))
"""Values that are not farther from 0 are 0 to LightGBM (kZeroThreshold in include/LightGBM/meta.h)."""


def read_forest(text: str) -> Forest:
    """The forest of a model file.

    Raises:
        DataError: The model has linear trees, or treats zeros as missing.
    """
    header, *trees = text.split("\nTree=")
    outputs = int(_fields(header)["num_tree_per_iteration"])
    body = (_fields(tree.partition("\nend of trees")[0]) for tree in trees)
    return Forest(tuple(_tree(fields, i % outputs) for i, fields in enumerate(body)), (0.0,) * outputs)


def _fields(lines: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in lines.splitlines() if "=" in line)


def _tree(fields: dict[str, str], target: int) -> Tree:
    def array(name: str, kind: type) -> np.ndarray:
        return np.array(fields.get(name, "").split(), kind)

    if fields.get("is_linear", "0") != "0":
        raise DataError("data.tree_unsupported", what="linear leaves")
    decisions, thresholds = array("decision_type", int), array("threshold", float)
    missing = decisions >> _MISSING_SHIFT & _MISSING_MASK
    if (missing == _MISSING_ZERO).any():
        raise DataError("data.tree_unsupported", what="zeros as missing values")
    # Where no value was missing in training, LightGBM reads a missing one as 0.
    missing_left = np.where(missing == _MISSING_NAN, decisions & _DEFAULT_LEFT > 0, thresholds >= 0)
    categorical = decisions & _CATEGORICAL > 0
    words, bounds = array("cat_threshold", int), array("cat_boundaries", int)
    categories = {
        int(split): frozenset(_codes(words[bounds[at] : bounds[at + 1]]))
        for split, at in zip(np.flatnonzero(categorical), thresholds[categorical].astype(int), strict=True)
    }
    return Tree(
        features=array("split_feature", int),
        thresholds=float32_below(_around_zero(thresholds)),
        missing_left=missing_left & ~categorical,
        left=array("left_child", int),
        right=array("right_child", int),
        leaves=(leaves := array("leaf_value", float)),
        # A tree without splits has no counts.
        covers=counts if len(counts := array("leaf_count", float)) else np.ones(len(leaves)),
        target=target,
        categories=categories,
    )


def _around_zero(thresholds: np.ndarray) -> np.ndarray:
    """Thresholds that send every value that is 0 to LightGBM where it sends 0."""
    moved = np.where((thresholds >= -_ZERO) & (thresholds < 0), np.nextafter(-_ZERO, -np.inf), thresholds)
    return np.where((moved >= 0) & (moved < _ZERO), _ZERO, moved)


def _codes(words: np.ndarray) -> Iterator[int]:
    """Positions of the bits that are set."""
    for i, word in enumerate(words.tolist()):
        yield from (i * _WORD_BITS + bit for bit in range(_WORD_BITS) if word >> bit & 1)
