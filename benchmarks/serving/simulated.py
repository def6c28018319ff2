"""Simulated rollouts of variants of known quality, judged by the production verdict. Pure, seeded.

A row has a true log-odds; a variant knows it up to noise. Equal variants have independent noise of the same spread; a
challenger that is some points worse has as much more noise as lowers its accuracy by those points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from cluster.row_losses import Metric, row_loss
from cluster.values import Task
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.latency_histogram import LatencyHistogram
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.verdict import judge
from deployments.rollout_policy import RolloutPolicy

SHARE = 0.5
_TASK = Task(kind="binary", label="y")
_NOISE = 0.3
_CALIBRATION_ROWS = 200_000
_MOST_NOISE = 4.0
_ERROR_RATE = 0.005
_LATENCY_SPREAD = 0.5
_BATCHES_A_LOOK = 10


@dataclass(frozen=True)
class RolloutPlan:
    """Number of looks at a rollout, and labeled rows between two of them."""

    looks: int
    rows: int
    policy: RolloutPolicy

    @property
    def horizon(self) -> int:
        return self.looks * self.rows


@dataclass(frozen=True)
class Outcome:
    """Outcome of a rollout, the labeled rows until then, and their losses [2, rows]."""

    kind: str
    rows: int
    costs: np.ndarray


def costs(chance: np.random.Generator, rows: int, noise: float, metric: Metric) -> np.ndarray:
    """Costs of the champion's and of the challenger's predictions on the same rows, [2, rows]."""
    truth = chance.normal(-1.0, 1.0, rows)
    labels = (chance.random(rows) < 1.0 / (1.0 + np.exp(-truth))).astype(float)
    known = truth + chance.normal(0.0, _NOISE, (2, rows))
    known[1] += noise * chance.normal(0.0, 1.0, rows)
    return np.array([row_loss(_TASK, 1.0 / (1.0 + np.exp(-one)), labels, metric) for one in known])


@cache
def noise_for(points: float) -> float:
    """Noise that lowers the accuracy by ``points`` percentage points, to a tenth of a point."""
    low, high = 0.0, _MOST_NOISE
    for _ in range(12):
        median_or_none = (low + high) / 2.0
        champion, challenger = costs(np.random.default_rng(0), _CALIBRATION_ROWS, median_or_none, "accuracy").mean(
            axis=1
        )
        low, high = (median_or_none, high) if 100.0 * (challenger - champion) < points else (low, median_or_none)
    return low


def rollouts(count: int, points: float, plan: RolloutPlan) -> Iterator[Outcome]:
    """Rollouts of a challenger that is ``points`` worse, judged after each batch until a verdict or the last row."""
    noise = noise_for(points) if points else 0.0
    for seed in range(count):
        yield _rollout(np.random.default_rng(seed), noise, plan)


def _rollout(chance: np.random.Generator, noise: float, plan: RolloutPlan) -> Outcome:
    losses = costs(chance, plan.horizon, noise, plan.policy.metric)
    evidence = ComparisonEvidence()
    for look in range(1, plan.looks + 1):
        end = look * plan.rows
        paired = PairedMoments.from_losses(*losses[:, end - plan.rows : end])
        challenger = int(chance.binomial(2 * plan.rows, SHARE))
        arms = [_arm(chance, requests) for requests in (2 * plan.rows - challenger, challenger)]
        evidence += ComparisonEvidence(champion=arms[0], challenger=arms[1], paired=paired)
        verdict = judge(RolloutEvidence(by_share={SHARE: evidence}), SHARE, 0.0, plan.policy)
        if verdict.kind != "hold":
            return Outcome(verdict.kind, end, losses)
    return Outcome("hold", plan.horizon, losses)


def _arm(chance: np.random.Generator, requests: int) -> VariantStats:
    """Requests of one variant since the last look: both have the same error rate and latency."""
    failures = int(chance.binomial(requests, _ERROR_RATE))
    latency = LatencyHistogram.from_values(20.0 * chance.lognormal(0.0, _LATENCY_SPREAD, _BATCHES_A_LOOK))
    return VariantStats(requests=requests, errors=failures, failures=failures, keys=requests, latency=latency)
