"""How the score changes with one feature: accumulated local effects, and partial dependence for categories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cluster.values import Frozen
from features.attributions.contributions import FeatureLocation, feature_locations
from features.attributions.sampled_shapley import ScoreFunction
from features.encoder import Arrays
from trainers.input_spec import InputSpec

MAX_BINS = 12
MAX_CATEGORIES = 10


class FeatureEffect(Frozen):
    """Mean effect of a feature's values on the score, around 0."""

    feature: str
    numbers: tuple[float, ...] = ()
    """Values of a number, ascending."""
    categories: tuple[str, ...] = ()
    """The most frequent values of a category."""
    effects: tuple[float, ...]
    """Of each of the values."""


def measure_effects(
    inputs: InputSpec, score: ScoreFunction, table: pa.Table, arrays: Arrays, features: Sequence[str]
) -> tuple[FeatureEffect, ...]:
    """Effects of some features, without those that are tensors or have a single value.

    Args:
        inputs: The model's inputs.
        score: The model, with one number for each row.
        table: Rows, which name the categories.
        arrays: The same rows, encoded.
        features: Names of the features.
    """
    locations = feature_locations(inputs)
    effects = []
    for name in features:
        if name in inputs.numbers:
            effects.append(_number_effect(name, locations[name], score, arrays))
        elif name in inputs.categories:
            effects.append(_category_effect(name, locations[name], score, table, arrays))
    return tuple(effect for effect in effects if effect is not None)


def _number_effect(name: str, location: FeatureLocation, score: ScoreFunction, arrays: Arrays) -> FeatureEffect | None:
    """Accumulated local effects of the rows that have the number (Apley and Zhu 2020, equations 15 and 16)."""
    values = arrays["numbers"][:, location.columns.start]
    present = np.isfinite(values)
    rows, values = {key: array[present] for key, array in arrays.items()}, values[present]
    if not len(values) or values.min() == values.max():
        return None
    edges = np.unique(np.quantile(values, np.linspace(0, 1, MAX_BINS + 1)).astype(np.float32))
    bins = np.clip(np.searchsorted(edges, values, side="left"), 1, len(edges) - 1) - 1
    steps = score(_replaced(rows, location, edges[bins + 1])) - score(_replaced(rows, location, edges[bins]))
    counts = np.bincount(bins, minlength=len(edges) - 1)
    local = np.bincount(bins, steps, len(edges) - 1) / np.maximum(counts, 1)
    accumulated = np.concatenate([[0.0], np.cumsum(local)])
    center = (counts * (accumulated[1:] + accumulated[:-1]) / 2).sum() / counts.sum()
    return FeatureEffect(feature=name, numbers=tuple(edges.tolist()), effects=tuple((accumulated - center).tolist()))


def _category_effect(
    name: str, location: FeatureLocation, score: ScoreFunction, table: pa.Table, arrays: Arrays
) -> FeatureEffect | None:
    """Partial dependence (Friedman 2001, section 8.2): the mean score if all rows had the category."""
    codes, first, counts = np.unique(arrays["codes"][:, location.columns.start], return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
    if len(order) < 2:
        return None
    means = np.array([score(_replaced(arrays, location, codes[i])).mean() for i in order], np.float64)
    names = tuple(str(table[name][int(first[i])].as_py()) for i in order)
    center = np.average(means, weights=counts[order])
    return FeatureEffect(feature=name, categories=names, effects=tuple((means - center).tolist()))


def _replaced(arrays: Arrays, location: FeatureLocation, values: np.ndarray) -> Arrays:
    changed = arrays[location.array].copy()
    changed[:, location.columns.start] = values
    return {**arrays, location.array: changed}
