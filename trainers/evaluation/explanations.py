"""Which features a model goes by: over all rows by permutation, for one row by Shapley values.

Permutation (Breiman 2001, "Random Forests", section 10): what the primary metric loses when a feature's values are dealt out to
other rows. Shapley values by sampling orders of features (Štrumbelj & Kononenko 2014): the score's way from a background row to the
row, one feature at a time. Both ask the exported model alone, so they hold for any module, with missing values and codes as they
come; a tensor is one feature. Why not captum: docs/decisions/0030.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cluster.values import Frozen, Task
from features.encoder import Arrays
from trainers import metrics
from trainers.input_spec import InputSpec

Score = Callable[[Arrays], np.ndarray]


class Place(NamedTuple):
    """The columns of an array that a feature fills."""

    array: str
    columns: slice


class Importance(Frozen):
    """A feature and what the primary metric loses without it: the mean over repeats, and their standard deviation."""

    feature: str
    lost: float
    spread: float


class Attribution(Frozen):
    """How one row came by its score: ``base`` is the mean over background rows; the ``parts`` add up to the difference.

    ``output`` is the class that is explained, of a multiclass task; ``values`` are the features as the frame has them.
    """

    row: str
    output: str
    base: float
    score: float
    parts: dict[str, float]
    values: dict[str, str]


def places(inputs: InputSpec) -> dict[str, Place]:
    """Where each feature lies."""
    found = {name: Place("numbers", slice(i, i + 1)) for i, name in enumerate(inputs.numbers)}
    at = len(inputs.numbers)
    for column in inputs.tensors:
        size = math.prod(column.shape)
        found[column.name] = Place("numbers", slice(at, at + size))
        at += size
    return found | {name: Place("codes", slice(i, i + 1)) for i, name in enumerate(inputs.categories)}


def permutation(
    task: Task, inputs: InputSpec, score: Score, arrays: Arrays, labels: np.ndarray, *, repeats: int, seed: int
) -> tuple[Importance, ...]:
    """Every feature, the most important first."""
    metric, generator = metrics.primary(task), np.random.default_rng(seed)
    sign = 1.0 if metric.direction == "max" else -1.0

    def quality(given: Arrays) -> float:
        return sign * metrics.prepare(task, metric.name, score(given), labels)(None)

    whole = quality(arrays)
    found = []
    for name, place in places(inputs).items():
        lost = [whole - quality(_dealt(arrays, place, generator)) for _ in range(repeats)]
        found.append(Importance(feature=name, lost=float(np.mean(lost)), spread=float(np.std(lost))))
    return tuple(sorted(found, key=lambda importance: -importance.lost))


def shapley(
    inputs: InputSpec, score: Callable[[Arrays], np.ndarray], row: Arrays, background: Arrays, *, orders: int, seed: int
) -> tuple[float, dict[str, float]]:
    """The mean of ``score`` over the background rows that were drawn, and each feature's part of the row's score.

    ``row`` has one row; ``score`` gives one number a row. Every order is walked in both directions, each from a background
    row of its own, which lowers the variance (Mitchell et al. 2022, "Sampling Permutations for Shapley Value Estimation").
    """
    where, generator = places(inputs), np.random.default_rng(seed)
    names, rows = list(where), len(background["numbers"])
    walks = []
    for _ in range(orders):
        order = generator.permutation(len(names))
        walks += [(order, int(generator.integers(rows))), (order[::-1], int(generator.integers(rows)))]
    steps = len(names) + 1
    walked = {
        name: np.repeat(values[[start for _, start in walks]], steps, axis=0) for name, values in background.items()
    }
    for i, (order, _) in enumerate(walks):
        for done, feature in enumerate(order):
            place = where[names[feature]]
            walked[place.array][i * steps + done + 1 : (i + 1) * steps, place.columns] = row[place.array][
                0, place.columns
            ]
    scores = np.asarray(score(walked), np.float64).reshape(len(walks), steps)
    parts = np.zeros(len(names))
    for (order, _), gained in zip(walks, np.diff(scores, axis=1), strict=True):
        parts[order] += gained / len(walks)
    return float(scores[:, 0].mean()), dict(zip(names, parts.tolist(), strict=True))


def _dealt(arrays: Arrays, place: Place, generator: np.random.Generator) -> Arrays:
    values = arrays[place.array].copy()
    values[:, place.columns] = values[generator.permutation(len(values)), place.columns]
    return {**arrays, place.array: values}
