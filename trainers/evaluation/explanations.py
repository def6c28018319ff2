"""Which features a model relies on: over all rows by permutation, for one row by sampled Shapley values.

Permutation importance (Breiman 2001, "Random Forests", section 10): the loss of the primary metric when a feature's
values are shuffled between rows. Shapley values are those of features/attributions/sampled_shapley.py. Both only call
the exported model, so they hold for any module, with missing values and codes as they are; a tensor is one feature.
docs/decisions/0030 says why not captum.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.values import Frozen, Task
from features.attributions.contributions import FeatureLocation, feature_locations
from features.attributions.sampled_shapley import ScoreFunction
from features.encoder import Arrays
from trainers import metrics
from trainers.input_spec import InputSpec


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


def _shuffle(arrays: Arrays, location: FeatureLocation, generator: np.random.Generator) -> Arrays:
    values = arrays[location.array].copy()
    values[:, location.columns] = values[generator.permutation(len(values)), location.columns]
    return {**arrays, location.array: values}
