"""Which features a model relies on: over all rows by permutation, for one row by Shapley values.

Permutation importance (Breiman 2001, "Random Forests", section 10): the loss of the primary metric when a feature's
values are shuffled between rows. Shapley values by sampling orders of features (Štrumbelj & Kononenko 2014): the path
of the score from a background row to the explained row, one feature at a time. Both only call the exported model, so
they hold for any module, with missing values and codes as they are; a tensor is one feature. docs/decisions/0030 says
why not captum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pydantic import Field

from cluster.values import Frozen, Task
from features.encoder import Arrays, tensor_slices
from trainers import metrics
from trainers.input_spec import InputSpec

ScoreFunction = Callable[[Arrays], np.ndarray]
"""Encoded rows in, scores of these rows out (cluster.values.Task)."""


class FeatureLocation(NamedTuple):
    """The encoded array that holds a feature, and the columns that it fills."""

    array: str
    columns: slice


class Importance(Frozen, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True):
    """A feature and the loss of the primary metric without it: mean and standard deviation over repeats."""

    feature: str
    # Cards have stored it as "lost" from the first version on.
    loss: float = Field(validation_alias="lost", serialization_alias="lost")
    spread: float


class Attribution(Frozen):
    """The contribution of each feature to one row's score.

    ``base`` is the mean score over background rows; ``parts`` add up to the difference from it. ``output`` is the
    explained class or label; ``values`` are the features as the training frame holds them.
    """

    row: str
    output: str
    base: float
    score: float
    parts: dict[str, float]
    values: dict[str, str]


def feature_locations(inputs: InputSpec) -> dict[str, FeatureLocation]:
    """Where the encoded arrays hold each feature."""
    numbers = {name: FeatureLocation("numbers", slice(i, i + 1)) for i, name in enumerate(inputs.numbers)}
    slices = tensor_slices(inputs.tensors, len(inputs.numbers))
    tensors = {column.name: FeatureLocation("numbers", place) for column, place in slices}
    codes = {name: FeatureLocation("codes", slice(i, i + 1)) for i, name in enumerate(inputs.categories)}
    return numbers | tensors | codes


def permutation_importance(
    task: Task, inputs: InputSpec, score: ScoreFunction, arrays: Arrays, labels: np.ndarray, *, repeats: int, seed: int
) -> tuple[Importance, ...]:
    """Importance of every feature, the largest first.

    Args:
        task: The model's task.
        inputs: The model's inputs.
        score: The model.
        arrays: Encoded rows.
        labels: Labels of the rows.
        repeats: How often each feature is shuffled.
        seed: Seed of the shuffles.
    """
    metric, generator = metrics.primary_metric(task), np.random.default_rng(seed)

    def quality(rows: Arrays) -> float:
        return metric.sign * metrics.prepare(task, metric.name, score(rows), labels)(None)

    whole = quality(arrays)
    importances = []
    for name, location in feature_locations(inputs).items():
        losses = [whole - quality(_shuffle(arrays, location, generator)) for _ in range(repeats)]
        importances.append(Importance(feature=name, loss=float(np.mean(losses)), spread=float(np.std(losses))))
    return tuple(sorted(importances, key=lambda importance: -importance.loss))


def shapley_values(
    inputs: InputSpec, score: ScoreFunction, row: Arrays, background: Arrays, *, orders: int, seed: int
) -> tuple[float, dict[str, float]]:
    """Shapley values of one row by sampled orders of features.

    Every order is walked in both directions, each from its own background row, which lowers the variance
    (Mitchell et al. 2022, "Sampling Permutations for Shapley Value Estimation").

    Args:
        inputs: The model's inputs.
        score: The model, with one number for each row.
        row: One encoded row.
        background: Encoded rows to start from.
        orders: Number of orders to sample.
        seed: Seed of the orders and background rows.

    Returns:
        The mean score of the sampled background rows, and each feature's part of the row's score.
    """
    locations, generator = feature_locations(inputs), np.random.default_rng(seed)
    names, rows = list(locations), len(background["numbers"])
    walks = []
    for _ in range(orders):
        order = generator.permutation(len(names))
        walks += [(order, int(generator.integers(rows))), (order[::-1], int(generator.integers(rows)))]
    steps = len(names) + 1
    path = {
        name: np.repeat(values[[start for _, start in walks]], steps, axis=0) for name, values in background.items()
    }
    for i, (order, _) in enumerate(walks):
        for position, feature in enumerate(order):
            array, columns = locations[names[feature]]
            path[array][i * steps + position + 1 : (i + 1) * steps, columns] = row[array][0, columns]
    scores = np.asarray(score(path), np.float64).reshape(len(walks), steps)
    parts = np.zeros(len(names))
    for (order, _), differences in zip(walks, np.diff(scores, axis=1), strict=True):
        parts[order] += differences / len(walks)
    return float(scores[:, 0].mean()), dict(zip(names, parts.tolist(), strict=True))


def _shuffle(arrays: Arrays, location: FeatureLocation, generator: np.random.Generator) -> Arrays:
    values = arrays[location.array].copy()
    values[:, location.columns] = values[generator.permutation(len(values)), location.columns]
    return {**arrays, location.array: values}
