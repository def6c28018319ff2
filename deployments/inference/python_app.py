"""The deployment of one version's Python model: an application of its own, for as long as a variant needs it.

Its process has the model's environment and code, and no other's. Replicas of champion and challenger call it for the
scores of feature rows; all else of a request stays with them. A replica whose call hangs is replaced by Serve.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from cluster.errors import RayloopError
from cluster.settings import Settings, load_settings
from cluster.values import ModelVersion
from deployments.inference.challenger_client import ChallengerAddress
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.challenger_server import ChallengerServer
from deployments.inference.memory_guard import MemoryGuard
from deployments.inference.replica_memory import guard_memory
from deployments.serve_schema import PythonServerConfig
from features.python_models.host import PythonHost, describe

MAX_ONGOING_REQUESTS = 64
HANG_CALLS = 5.0
"""Time limits of a call after which it counts as one that never ends, and its replica is replaced."""
HANG_MIN_S = 10.0


@serve.deployment(name="PythonServer", max_ongoing_requests=MAX_ONGOING_REQUESTS)
class PythonServer:
    """Scores rows with the Python model that its ``user_config`` (PythonServerConfig) names, one call at a time."""

    def __init__(self) -> None:
        self._settings = load_settings()
        self._host: PythonHost | None = None
        self._memory_guard: MemoryGuard | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="python model")
        self._call_started: float | None = None
        self._server = ChallengerServer(self._settings.scratch, self._score)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the model, once. An exception fails the deployment, which the writer of Serve's configuration sees."""
        config = PythonServerConfig.from_stored(user_config)
        if self._host is None:
            loop = asyncio.get_running_loop()
            self._host = await loop.run_in_executor(self._thread, _load, config.version, self._settings)
        if self._memory_guard is not None:
            self._memory_guard.close()
        limit = (config.version, config.rollout, config.max_growth_mib)
        self._memory_guard = await asyncio.to_thread(guard_memory, *limit)
        await self._server.start()

    async def score(self, rows: bytes, sizes: list[int], now_us: int) -> list[ScoreResult]:
        """Score a batch of rows (features/python_models/model_batch.py); replicas on other machines call this."""
        return await self._score(ScoreRequest(rows, sizes, now_us))

    async def address(self) -> ChallengerAddress:
        """Where this replica listens for replicas on its machine."""
        return ChallengerAddress(ray.get_runtime_context().get_node_id(), str(self._server.path))

    async def check_health(self) -> None:
        """Raise when a call has run for so long that it will not end: Serve then replaces this replica."""
        if self._host is not None and self._call_started is not None:
            limit_s = max(HANG_MIN_S, HANG_CALLS * self._host.record.runtime.timeout_s)
            if time.monotonic() - self._call_started > limit_s:
                raise TimeoutError(f"a call of {self._host.record.class_name} runs for more than {limit_s:g} s")

    async def _score(self, request: ScoreRequest) -> list[ScoreResult]:
        return [await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, request)]

    def _predict(self, request: ScoreRequest) -> ScoreResult:
        assert self._host is not None
        runtime = self._host.record.runtime
        if time.time() > request.now_us / 1e6 + runtime.timeout_s:
            # Its caller has given up: scoring it would delay those who wait.
            return ScoreResult("", None, None, f"not scored within {runtime.timeout_s:g} s")
        self._call_started = started = time.monotonic()
        try:
            scores = self._host.predict(request.rows)
        except Exception as error:
            return ScoreResult("", None, None, error.what if isinstance(error, RayloopError) else describe(error))
        finally:
            self._call_started = None
        return ScoreResult("", scores, (time.monotonic() - started) * 1e3, None)

    def __del__(self) -> None:
        # Also runs when the constructor failed.
        if (server := getattr(self, "_server", None)) is not None:
            server.close()


def _load(version: ModelVersion, settings: Settings) -> PythonHost:
    return PythonHost(version.local_folder or _download(version, settings))


def _download(version: ModelVersion, settings: Settings) -> Path:
    from cluster.registry import Registry

    return Registry(settings).fetch(version)


def build(args: dict[str, Any]) -> Application:
    """Serve's entry point (import_path); takes no arguments."""
    return PythonServer.bind()  # type: ignore[attr-defined]
