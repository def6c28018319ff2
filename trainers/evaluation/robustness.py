"""The loss of a model's primary metric when its inputs are perturbed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from cluster.values import Check, Frozen, Task
from features.attributions.sampled_shapley import ScoreFunction
from features.encoder import MISSING_CODE, Arrays
from trainers import metrics
from trainers.evaluation import check_builders
from trainers.input_spec import InputSpec


class RobustnessPolicy(Frozen):
    """How inputs are perturbed, and how much of the primary metric that may cost."""

    noise: float = Field(default=0.1, ge=0)
    """Normal noise added to every number, in standard deviations of its training rows."""
    missing: float = Field(default=0.1, ge=0, le=1)
    """Share of all values that are made missing."""
    shuffled: float = Field(default=0.1, ge=0, le=1)
    """Share of rows that exchange their categories, column by column."""
    rows: int = Field(default=10_000, ge=100)
    """Held-out rows that are perturbed, at most."""
    max_loss: float | None = Field(default=None, ge=0)
    """Largest loss of the primary metric. None is no limit."""


class PerturbationResult(Frozen, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True):
    """The primary metric before and after a perturbation, and its loss (negative: a gain)."""

    # Cards have stored these as "what" and "lost" from the first version on.
    perturbation: str = Field(validation_alias="what", serialization_alias="what")
    before: float
    after: float
    loss: float = Field(validation_alias="lost", serialization_alias="lost")


def measure(
    policy: RobustnessPolicy,
    task: Task,
    inputs: InputSpec,
    score: ScoreFunction,
    arrays: Arrays,
    labels: np.ndarray,
    seed: int,
) -> tuple[PerturbationResult, ...]:
    """Score perturbed copies of encoded rows.

    Args:
        policy: The perturbations. Those that need a number or a category are left out when the inputs have none.
        task: The model's task.
        inputs: The model's inputs.
        score: The model.
        arrays: Encoded rows.
        labels: Labels of the rows.
        seed: Seed of the perturbations.
    """
    step = max(1, -(-len(labels) // policy.rows))
    rows, row_labels = {name: values[::step] for name, values in arrays.items()}, labels[::step]
    metric = metrics.primary_metric(task)

    def quality(rows: Arrays) -> float:
        return metrics.prepare(task, metric.name, score(rows), row_labels)(None)

    before, results = quality(rows), []
    for perturbation, perturbed in _perturb(policy, inputs, rows, np.random.default_rng(seed)):
        after = quality(perturbed)
        loss = metric.sign * (before - after)
        results.append(PerturbationResult(perturbation=perturbation, before=before, after=after, loss=loss))
    return tuple(results)


def check(results: tuple[PerturbationResult, ...], task: Task, limit: float | None) -> Iterator[Check]:
    """One check for each perturbation."""
    for result in results:
        what = f"loss of {metrics.primary_metric(task).name} with {result.perturbation}"
        yield from check_builders.at_most(f"robust to {result.perturbation}", result.loss, limit, what)


def _perturb(
    policy: RobustnessPolicy, inputs: InputSpec, arrays: Arrays, generator: np.random.Generator
) -> Iterator[tuple[str, Arrays]]:
    if policy.noise and inputs.width:
        numbers = add_noise(arrays["numbers"], inputs, policy.noise, generator)
        yield f"noise of {policy.noise:g} std", {**arrays, "numbers": numbers}
    if policy.missing:
        yield f"{policy.missing:.0%} of values missing", remove_values(arrays, policy.missing, generator)
    if policy.shuffled and inputs.categories:
        codes = shuffle_categories(arrays["codes"], policy.shuffled, generator)
        yield f"{policy.shuffled:.0%} of categories shuffled", {**arrays, "codes": codes}


def add_noise(numbers: np.ndarray, inputs: InputSpec, size: float, generator: np.random.Generator) -> np.ndarray:
    """``numbers`` [n, width] with normal noise of ``size`` standard deviations of the training rows; NaN stays NaN."""
    noise = generator.standard_normal(numbers.shape, np.float32)
    return np.asarray(numbers + noise * np.asarray(inputs.std, np.float32) * np.float32(size))


def remove_values(arrays: Arrays, share: float, generator: np.random.Generator) -> Arrays:
    """Encoded rows with a ``share`` of their values missing."""
    numbers, codes = arrays["numbers"], arrays["codes"]
    return {
        "numbers": np.where(generator.random(numbers.shape) < share, np.float32(np.nan), numbers),
        "codes": np.where(generator.random(codes.shape) < share, MISSING_CODE, codes),
    }


def shuffle_categories(codes: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """``codes`` [n, columns] with a ``share`` of each column shuffled; its frequencies stay the same."""
    codes = codes.copy()
    for column in codes.T:
        chosen = np.flatnonzero(generator.random(len(column)) < share)
        column[chosen] = column[generator.permutation(chosen)]
    return codes
