"""The challenger's deployment: a separate application that exists only while there is a challenger.

It receives request rows instead of features, because its feature set may differ from the champion's. A replica that
grows beyond what the policy allows reports it to the log writer, as evidence for the verdict, and ends itself: the
champion answers, and Serve starts another replica.
"""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from cluster.settings import load_settings
from deployments.inference.challenger_client import ChallengerAddress
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.challenger_server import ChallengerServer
from deployments.inference.explanation_worker import ExplanationWorker
from deployments.inference.memory_guard import MemoryGuard
from deployments.inference.predictor import ScoredBatch, Scorer
from deployments.inference.replica_memory import guard_memory
from deployments.serve_schema import ChallengerConfig
from deployments.telemetry.prediction_log import from_ipc

MAX_ONGOING_REQUESTS = 64


@serve.deployment(name="Challenger", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class Challenger:
    """Scores request rows with the version that its ``user_config`` (ChallengerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._scorer: Scorer | None = None
        self._memory_guard: MemoryGuard | None = None
        self._explanations = ExplanationWorker()
        self._server = ChallengerServer(self._settings.scratch, self._score)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load a version. An exception fails the deployment, which the rollout's controller sees."""
        config = ChallengerConfig.from_stored(user_config)
        self._scorer = await asyncio.to_thread(Scorer, config.challenger, self._settings)
        await self._scorer.start()
        if self._memory_guard is not None:
            self._memory_guard.close()
        limit = (config.challenger, config.rollout, config.max_growth_mib)
        self._memory_guard = await asyncio.to_thread(guard_memory, *limit)
        await self._server.start()

    async def score(self, rows: bytes, sizes: list[int], now_us: int) -> list[ScoreResult]:
        """Score the requests of a ScoreRequest; champions on other machines call this over Serve's handle."""
        return await self._score(ScoreRequest(rows, sizes, now_us))

    async def explain(self, rows: bytes, sizes: list[int], now_us: int) -> list[str]:
        """Explain the scores of one request as JSON (RowExplanation); empty if this version cannot."""
        assert self._scorer is not None
        [batch] = await self._scorer.score_table(from_ipc(rows), sizes, now_us)
        if batch.frame is None or batch.scores is None:
            return []
        explanations = await self._explanations.try_explain(self._scorer, batch.frame, batch.scores)
        return [each.model_dump_json() for each in explanations]

    async def address(self) -> ChallengerAddress:
        """Where this replica listens for champions on its machine."""
        return ChallengerAddress(ray.get_runtime_context().get_node_id(), str(self._server.path))

    async def _score(self, request: ScoreRequest) -> list[ScoreResult]:
        assert self._scorer is not None
        batches = await self._scorer.score_table(from_ipc(request.rows), request.sizes, request.now_us)
        return [result for batch in batches for result in _split(self._scorer.version, batch)]

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        if (server := getattr(self, "_server", None)) is not None:
            server.close()


def _split(version: str, batch: ScoredBatch) -> list[ScoreResult]:
    """The result of each request of a batch."""
    ends = [0, *accumulate(batch.sizes)]
    scores = [None if batch.scores is None else batch.scores[i:j] for i, j in pairwise(ends)]
    return [ScoreResult(version, part, batch.latency_ms, batch.error) for part in scores]


def build(args: dict[str, Any]) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Challenger.bind()  # type: ignore[attr-defined]
