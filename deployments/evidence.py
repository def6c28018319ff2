"""Measure: what is known about the two variants, as statistics that merge by addition. Pure."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from pydantic import Field

from cluster.contracts import Frozen, Task

PROBABILITY_FLOOR = 1e-6
"""Probabilities are clipped to [floor, 1 - floor]: one confident mistake costs 13.8 nats, not infinitely many."""


def losses(task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Loss of each row, float64 [n]: log loss in nats, or squared error for regression.

    ``scores`` and ``labels`` as contracts.Task says.
    """
    if task.kind == "regression":
        return np.asarray(np.square(scores - labels))
    if task.kind == "multiclass":
        probability = scores[np.arange(len(labels)), labels.astype(np.int64)]
    else:
        probability = np.where(labels > 0.5, scores, 1.0 - scores)
    clipped: np.ndarray = np.clip(probability, PROBABILITY_FLOOR, 1.0 - PROBABILITY_FLOOR)
    return np.asarray(-np.log(clipped))


class Moments(Frozen):
    """Count, mean, and sum of squared deviations."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(n=values.size, mean=mean, m2=float(np.square(values - mean).sum()))

    @property
    def variance(self) -> float:
        """Population variance; 0 without values."""
        return self.m2 / self.n if self.n else 0.0

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979, eq. 2.1."""
        n = self.n + other.n
        if not n:
            return self
        delta = other.mean - self.mean
        return Moments(
            n=n, mean=self.mean + delta * other.n / n, m2=self.m2 + other.m2 + delta**2 * self.n * other.n / n
        )


class Paired(Frozen):
    """Losses of both variants on the same labelled rows: two means, and all second moments about them."""

    n: int = 0
    champion: float = 0.0
    challenger: float = 0.0
    m2_champion: float = 0.0
    m2_challenger: float = 0.0
    co: float = 0.0

    @classmethod
    def of(cls, champion: np.ndarray, challenger: np.ndarray) -> Self:
        """From losses of equal length, row by row."""
        if not champion.size:
            return cls()
        a, b = float(champion.mean()), float(challenger.mean())
        return cls(
            n=champion.size,
            champion=a,
            challenger=b,
            m2_champion=float(np.square(champion - a).sum()),
            m2_challenger=float(np.square(challenger - b).sum()),
            co=float(((champion - a) * (challenger - b)).sum()),
        )

    def excess(self, margin: float) -> Moments:
        """Moments of ``challenger - (1 + margin) * champion``: above 0, the challenger loses more than allowed."""
        factor = 1.0 + margin
        m2 = self.m2_challenger + factor**2 * self.m2_champion - 2.0 * factor * self.co
        return Moments(n=self.n, mean=self.challenger - factor * self.champion, m2=max(m2, 0.0))

    def __add__(self, other: Paired) -> Paired:
        n = self.n + other.n
        if not n:
            return self
        weight = self.n * other.n / n
        a, b = other.champion - self.champion, other.challenger - self.challenger
        return Paired(
            n=n,
            champion=self.champion + a * other.n / n,
            challenger=self.challenger + b * other.n / n,
            m2_champion=self.m2_champion + other.m2_champion + a * a * weight,
            m2_challenger=self.m2_challenger + other.m2_challenger + b * b * weight,
            co=self.co + other.co + a * b * weight,
        )


class Arm(Frozen):
    """Requests dealt to a variant, those it failed, and the milliseconds it spent on those it answered.

    A challenger's failure counts when the champion could answer the same request.
    """

    requests: int = 0
    errors: int = 0
    latency_ms: Moments = Moments()

    def __add__(self, other: Arm) -> Arm:
        return Arm(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            latency_ms=self.latency_ms + other.latency_ms,
        )


class Evidence(Frozen):
    """What a stretch of a rollout has shown."""

    champion: Arm = Arm()
    challenger: Arm = Arm()
    paired: Paired = Paired()

    @property
    def requests(self) -> int:
        return self.champion.requests + self.challenger.requests

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(
            champion=self.champion + other.champion,
            challenger=self.challenger + other.challenger,
            paired=self.paired + other.paired,
        )


class RolloutEvidence(Frozen):
    """Evidence by the challenger's share at the time, in the order of the shares."""

    by_share: dict[float, Evidence] = Field(default_factory=dict)

    @property
    def total(self) -> Evidence:
        return sum(self.by_share.values(), Evidence())

    def at(self, share: float) -> Evidence:
        """What was seen at this share alone."""
        return next((e for s, e in self.by_share.items() if math.isclose(s, share)), Evidence())
