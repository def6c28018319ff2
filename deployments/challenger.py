"""The challenger's deployment: an application of its own that exists only while there is a challenger.

It gets request rows, not features: its feature set may differ from the champion's.
"""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from ray import serve
from ray.serve import Application

from cluster.settings import load_settings
from deployments.log import from_ipc
from deployments.predictor import Scored, Scorer
from deployments.user_config import ChallengerConfig

MAX_ONGOING_REQUESTS = 64


class Said(NamedTuple):
    """What the challenger said of one request. ``scores`` is None when it failed, and ``error`` says how."""

    version: str
    scores: np.ndarray | None
    latency_ms: float | None
    error: str | None


@serve.deployment(name="Challenger", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class Challenger:
    """Scores request rows with the version that its ``user_config`` (ChallengerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._scorer: Scorer | None = None

    async def reconfigure(self, user_config: dict) -> None:
        """Load a version. An exception fails the deployment, which the rollout's controller sees."""
        version = ChallengerConfig.model_validate(user_config).challenger
        self._scorer = await asyncio.to_thread(Scorer, version, self._settings)

    async def score(self, rows: bytes, sizes: list[int], now_us: int) -> list[Said]:
        """What is said of each of several requests: their rows after one another (Arrow IPC), and how many each has."""
        assert self._scorer is not None
        scored = self._scorer.score_table(from_ipc(rows), sizes, now_us)
        return [said for together in scored for said in _each(self._scorer.version, together)]

    async def version(self) -> str:
        return self._scorer.version if self._scorer else ""


def _each(version: str, scored: Scored) -> list[Said]:
    ends = [0, *accumulate(scored.sizes)]
    parts = [None if scored.scores is None else scored.scores[i:j] for i, j in pairwise(ends)]
    return [Said(version, scores, scored.latency_ms, scored.error) for scores in parts]


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Challenger.bind()  # type: ignore[attr-defined, no-any-return]
