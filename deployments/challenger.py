"""The challenger's deployment: an application of its own that exists only while there is a challenger.

It gets request rows, not features: its feature set may differ from the champion's.
"""

from __future__ import annotations

import asyncio

import numpy as np
from ray import serve
from ray.serve import Application

from cluster.settings import load_settings
from deployments.log import from_ipc
from deployments.predictor import Scorer
from deployments.user_config import ChallengerConfig

MAX_ONGOING_REQUESTS = 64


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

    async def score(self, rows: bytes, now_us: int) -> tuple[str, np.ndarray, float]:
        """Version, scores and milliseconds spent on request rows (Arrow IPC)."""
        assert self._scorer is not None
        scored = self._scorer.score(from_ipc(rows), now_us)
        return self._scorer.version, scored.scores, scored.latency_ms

    async def version(self) -> str:
        return self._scorer.version if self._scorer else ""


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Challenger.bind()  # type: ignore[attr-defined, no-any-return]
