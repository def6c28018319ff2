"""The challenger's deployment: an application of its own that exists only while there is a challenger.

It gets request rows, not features: its feature set may differ from the champion's. A replica that grows beyond what the
policy allows tells the ledger, so that the judge knows, and ends itself: the champion answers, and Serve starts another.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import accumulate, pairwise

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve import Application

from cluster.names import ACTOR_NAMESPACE, log_writer_actor
from cluster.settings import load_settings
from deployments.inference.challenger_client import ChallengerAddress, ChallengerServer
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.memory_guard import MemoryGuard
from deployments.inference.predictor import ScoredBatch, Scorer
from deployments.serve_schema import ChallengerConfig
from deployments.telemetry.prediction_log import from_ipc

MAX_ONGOING_REQUESTS = 64
OUT_OF_MEMORY_EXIT_CODE = 137
"""Exit code of a replica that grew too far; that of a container which was out of memory."""
_LAST_WORDS_S = 2.0

_log = logging.getLogger(__name__)


@serve.deployment(name="Challenger", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class Challenger:
    """Scores request rows with the version that its ``user_config`` (ChallengerConfig) names."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._scorer: Scorer | None = None
        self._watch: MemoryGuard | None = None
        self._listener = ChallengerServer(self._settings.scratch, self._said)

    async def reconfigure(self, user_config: dict) -> None:
        """Load a version. An exception fails the deployment, which the rollout's controller sees."""
        config = ChallengerConfig.from_stored(user_config)
        self._scorer = await asyncio.to_thread(Scorer, config.challenger, self._settings)
        if self._watch is not None:
            self._watch.close()
        self._watch = await asyncio.to_thread(_watch, config)
        await self._listener.start()

    async def score(self, rows: bytes, sizes: list[int], now_us: int) -> list[ScoreResult]:
        """What is said of each of several requests, asked over Serve's handle."""
        return self._said(ScoreRequest(rows, sizes, now_us))

    async def address(self) -> ChallengerAddress:
        """Where this replica listens for those on its own machine."""
        return ChallengerAddress(ray.get_runtime_context().get_node_id(), str(self._listener.path))

    def _said(self, asked: ScoreRequest) -> list[ScoreResult]:
        assert self._scorer is not None
        scored = self._scorer.score_table(from_ipc(asked.rows), asked.sizes, asked.now_us)
        return [said for together in scored for said in _each(self._scorer.version, together)]

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        if (listener := getattr(self, "_listener", None)) is not None:
            listener.close()


def _watch(config: ChallengerConfig) -> MemoryGuard | None:
    """Has the ledger know how far this process grows from now on, and ends it when that is too far."""
    if config.max_growth_mib is None:
        return None
    # The handle's first use imports the ledger's module: that is not the model's growth.
    ledger: ActorHandle = ray.get_actor(log_writer_actor(config.challenger.model), ACTOR_NAMESPACE)

    def tell(grown_mib: float) -> ray.ObjectRef:
        return ledger.grown.remote(config.rollout, config.challenger.version, grown_mib)

    def end(grown_mib: float) -> None:
        _log.error(
            "%s grew by %.0f MiB since it was loaded, %.0f MiB are allowed: this replica ends",
            config.challenger, grown_mib, config.max_growth_mib,
        )  # fmt: skip
        try:
            ray.get(tell(grown_mib), timeout=_LAST_WORDS_S)
        except Exception:
            # Of the next replica, which grows as this one did, the ledger may hear.
            _log.exception("the ledger was not told")
        os._exit(OUT_OF_MEMORY_EXIT_CODE)

    return MemoryGuard(config.max_growth_mib, tell, end)


def _each(version: str, scored: ScoredBatch) -> list[ScoreResult]:
    ends = [0, *accumulate(scored.sizes)]
    parts = [None if scored.scores is None else scored.scores[i:j] for i, j in pairwise(ends)]
    return [ScoreResult(version, scores, scored.latency_ms, scored.error) for scores in parts]


def build(args: dict) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return Challenger.bind()  # type: ignore[attr-defined, no-any-return]
