"""What a model loses when its inputs are worse than the rows it was judged on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from pydantic import Field

from cluster.values import Check, Frozen, Task
from features.encoder import MISSING_CODE, Arrays
from trainers import metrics
from trainers.evaluation import check_builders
from trainers.input_spec import InputSpec

Score = Callable[[Arrays], np.ndarray]


class RobustnessPolicy(Frozen):
    """How inputs are spoilt, on at most ``rows`` held-out rows, and how much of the primary metric that may cost.

    ``noise``: normal noise on every number, in standard deviations of its training rows. ``missing``: this share of all values
    goes missing. ``shuffled``: this share of the rows trades its categories with one another, column by column. ``max_loss`` None is
    no limit.
    """

    noise: float = Field(default=0.1, ge=0)
    missing: float = Field(default=0.1, ge=0, le=1)
    shuffled: float = Field(default=0.1, ge=0, le=1)
    rows: int = Field(default=10_000, ge=100)
    max_loss: float | None = Field(default=None, ge=0)


class Spoilt(Frozen):
    """What was done to the inputs, the primary metric before and after, and how much was lost (negative: won)."""

    what: str
    before: float
    after: float
    lost: float


def measure(
    policy: RobustnessPolicy, task: Task, inputs: InputSpec, score: Score, arrays: Arrays, labels: np.ndarray, seed: int
) -> tuple[Spoilt, ...]:
    """Score spoilt copies of ``arrays``. What the inputs do not have (no category, no number) is left out."""
    step = max(1, -(-len(labels) // policy.rows))
    rows, known = {name: values[::step] for name, values in arrays.items()}, labels[::step]
    metric = metrics.primary(task)
    sign = 1.0 if metric.direction == "max" else -1.0

    def quality(given: Arrays) -> float:
        return metrics.prepare(task, metric.name, score(given), known)(None)

    before, found = quality(rows), []
    for what, spoilt in _spoilt(policy, inputs, rows, np.random.default_rng(seed)):
        after = quality(spoilt)
        found.append(Spoilt(what=what, before=before, after=after, lost=sign * (before - after)))
    return tuple(found)


def judge(found: tuple[Spoilt, ...], task: Task, limit: float | None) -> Iterator[Check]:
    for spoilt in found:
        what = f"{metrics.primary(task).name} lost with {spoilt.what}"
        yield from check_builders.if_limited(f"robust to {spoilt.what}", spoilt.lost, limit, what)


def _spoilt(
    policy: RobustnessPolicy, inputs: InputSpec, arrays: Arrays, generator: np.random.Generator
) -> Iterator[tuple[str, Arrays]]:
    if policy.noise and inputs.width:
        yield (
            f"noise of {policy.noise:g} std",
            {**arrays, "numbers": noisy(arrays["numbers"], inputs, policy.noise, generator)},
        )
    if policy.missing:
        yield f"{policy.missing:.0%} of values missing", gappy(arrays, policy.missing, generator)
    if policy.shuffled and inputs.categories:
        shuffled = traded(arrays["codes"], policy.shuffled, generator)
        yield f"{policy.shuffled:.0%} of categories shuffled", {**arrays, "codes": shuffled}


def noisy(numbers: np.ndarray, inputs: InputSpec, size: float, generator: np.random.Generator) -> np.ndarray:
    noise = generator.standard_normal(numbers.shape, np.float32)
    return np.asarray(numbers + noise * np.asarray(inputs.std, np.float32) * np.float32(size))


def gappy(arrays: Arrays, share: float, generator: np.random.Generator) -> Arrays:
    numbers, codes = arrays["numbers"], arrays["codes"]
    return {
        "numbers": np.where(generator.random(numbers.shape) < share, np.float32(np.nan), numbers),
        "codes": np.where(generator.random(codes.shape) < share, MISSING_CODE, codes),
    }


def traded(codes: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Each column's values keep their frequencies."""
    codes = codes.copy()
    for column in codes.T:
        chosen = np.flatnonzero(generator.random(len(column)) < share)
        column[chosen] = column[generator.permutation(chosen)]
    return codes
