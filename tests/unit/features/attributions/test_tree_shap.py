"""TreeSHAP against Shapley values by their definition, over all sets of columns."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.attributions.tree_shap import TreeShap
from features.encoder import Arrays
from trainers.trees.forest import Forest, Tree
from trainers.trees.leaf_paths import leaf_paths

NUMBERS, CODES = 3, 2
COLUMNS = NUMBERS + CODES
CODE_COUNT = 4


def _random_tree(random: np.random.Generator, splits: int, target: int) -> Tree:
    """A tree that grows at random leaves; columns repeat on its paths, and some splits are on categories."""
    left, right = [0] * splits, [0] * splits
    leaves: list[tuple[int, list[int]] | None] = [None]
    for split in range(splits):
        at = int(random.integers(len(leaves)))
        parent = leaves[at]
        if parent is not None:
            parent[1][parent[0]] = split
        leaves[at] = (split, left)
        leaves.append((split, right))
    for number, leaf in enumerate(leaves):
        if leaf is not None:
            leaf[1][leaf[0]] = -1 - number
    features = random.integers(COLUMNS, size=splits)
    categories = {
        int(i): frozenset(random.choice(CODE_COUNT, 2, replace=False).tolist())
        for i in np.flatnonzero(features >= NUMBERS)
    }
    return Tree(
        features=features,
        thresholds=random.normal(size=splits).astype(np.float32),
        missing_left=(random.random(splits) < 0.5) & (features < NUMBERS),
        left=np.array(left, int),
        right=np.array(right, int),
        leaves=random.normal(size=splits + 1),
        covers=random.integers(1, 50, splits + 1).astype(float),
        target=target,
        categories=categories,
    )


def _random_row(random: np.random.Generator) -> Arrays:
    numbers = random.normal(size=(1, NUMBERS)).astype(np.float32)
    numbers[random.random((1, NUMBERS)) < 0.3] = np.nan
    return {"numbers": numbers, "codes": random.integers(CODE_COUNT, size=(1, CODES))}


def _mean(tree: Tree, row: Arrays, known: frozenset[int], node: int | None = None) -> float:
    """Mean of a tree where only some columns are known (Lundberg et al. 2020, Algorithm 1)."""
    node = (0 if len(tree.features) else -1) if node is None else node
    if node < 0:
        return float(tree.leaves[-1 - node])
    children = (int(tree.left[node]), int(tree.right[node]))
    column = int(tree.features[node])
    if column in known:
        return _mean(tree, row, known, children[0 if _goes_left(tree, node, row) else 1])
    covers = [_cover(tree, child) for child in children]
    return sum(c * _mean(tree, row, known, child) for c, child in zip(covers, children, strict=True)) / sum(covers)


def _goes_left(tree: Tree, node: int, row: Arrays) -> bool:
    column = int(tree.features[node])
    if node in tree.categories:
        return int(row["codes"][0, column - NUMBERS]) in tree.categories[node]
    value = row["numbers"][0, column]
    return bool(tree.missing_left[node] if np.isnan(value) else value <= tree.thresholds[node])


def _cover(tree: Tree, node: int) -> float:
    if node < 0:
        return float(tree.covers[-1 - node])
    return _cover(tree, int(tree.left[node])) + _cover(tree, int(tree.right[node]))


def _shapley(forest: Forest, row: Arrays, output: int) -> np.ndarray:
    def mean(known: frozenset[int]) -> float:
        return sum(_mean(tree, row, known) for tree in forest.trees if tree.target == output)

    values = np.zeros(COLUMNS)
    for column in range(COLUMNS):
        others = [other for other in range(COLUMNS) if other != column]
        for size in range(COLUMNS):
            weight = factorial(size) * factorial(COLUMNS - size - 1) / factorial(COLUMNS)
            for some in combinations(others, size):
                values[column] += weight * (mean(frozenset({*some, column})) - mean(frozenset(some)))
    return values


def _explain(forest: Forest, row: Arrays, output: int, scale: float = 1.0, shift: float = 0.0) -> tuple:
    paths = leaf_paths(forest, scale, shift)
    assert paths is not None
    return TreeShap(paths, np.arange(COLUMNS)).explain(row, output)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_contributions_equal_shapley_values_by_definition_and_add_up(seed: int, splits: list[int]) -> None:
    random = np.random.default_rng(seed)
    trees = tuple(_random_tree(random, size, i % 2) for i, size in enumerate(splits))
    forest, row = Forest(trees, (0.25, -1.0)), _random_row(random)
    for output in range(2):
        contributions = _explain(forest, row, output)
        np.testing.assert_allclose(contributions.parts, _shapley(forest, row, output), atol=1e-12)
        everything = frozenset(range(COLUMNS))
        score = forest.base[output] + sum(_mean(t, row, everything) for t in trees if t.target == output)
        assert contributions.total == pytest.approx(score, abs=1e-12)


def test_contributions_have_the_unit_of_scale_and_shift() -> None:
    random = np.random.default_rng(3)
    forest, row = Forest((_random_tree(random, 6, 0),), (0.5,)), _random_row(random)
    plain, scaled = _explain(forest, row, 0), _explain(forest, row, 0, 10.0, 7.0)
    np.testing.assert_allclose(scaled.parts, 10 * plain.parts)
    assert scaled.base == pytest.approx(10 * plain.base + 7)


def test_columns_of_one_feature_are_added() -> None:
    random = np.random.default_rng(4)
    forest, row = Forest((_random_tree(random, 8, 0),), (0.0,)), _random_row(random)
    paths = leaf_paths(forest, 1.0, 0.0)
    assert paths is not None
    joined = TreeShap(paths, np.array([0, 0, 0, 1, 2])).explain(row, 0).parts
    each = _explain(forest, row, 0).parts
    np.testing.assert_allclose(joined, [each[:3].sum(), each[3], each[4]])


def test_symmetric_columns_contribute_alike() -> None:
    """An "and" of two columns with equal shares."""
    tree = Tree(
        features=np.array([0, 1, 1]), thresholds=np.zeros(3, np.float32), missing_left=np.zeros(3, bool),
        left=np.array([1, -1, -3]), right=np.array([2, -2, -4]), leaves=np.array([8.0, 0.0, 0.0, 0.0]),
        covers=np.full(4, 25.0), target=0, categories={},
    )  # fmt: skip
    row = {"numbers": np.array([[-1.0, -1.0, 5.0]], np.float32), "codes": np.zeros((1, CODES), np.int64)}
    contributions = _explain(Forest((tree,), (0.0,)), row, 0)
    assert contributions.base == 2.0
    np.testing.assert_allclose(contributions.parts, [3.0, 3.0, 0, 0, 0], atol=1e-12)


def test_too_large_forest_has_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.trees.leaf_paths.MAX_CONDITIONS", 3)
    assert leaf_paths(Forest((_random_tree(np.random.default_rng(0), 5, 0),), (0.0,)), 1.0, 0.0) is None
