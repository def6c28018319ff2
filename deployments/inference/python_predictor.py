"""A replica's side of a Python model: the scores of a feature frame come from the model's own deployment."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np
import pyarrow as pa

from cluster.errors import RayloopError
from cluster.values import ModelVersion
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.challenger_protocol import ScoreRequest
from deployments.serve_schema import python_app_name
from features.manifest import Manifest
from features.python_models.bundle import PythonRecord
from features.python_models.model_batch import frame_batch, to_ipc_batch

CONNECT_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class PythonPredictor:
    """Calls the deployment of a version's Python model, within the model's time limit.

    Args:
        version: The version.
        record: Its record.
        manifest: Its manifest.
    """

    explainer = None
    """Only models that replicas can call at will are explained."""

    def __init__(self, version: ModelVersion, record: PythonRecord, manifest: Manifest) -> None:
        self.manifest = manifest
        self._version, self._timeout_s = version, record.runtime.timeout_s
        self._client: ChallengerClient | None = None

    async def start(self) -> None:
        """Connect ahead of the first request, which should not wait for it."""
        try:
            await asyncio.wait_for(self._connected().connect(), CONNECT_TIMEOUT_S)
        except Exception:
            _log.exception("the deployment of %s does not answer yet; requests fail until it does", self._version)

    async def score(self, frame: pa.Table) -> np.ndarray:
        """Score a feature frame.

        Raises:
            RayloopError: rayloop.python_model_failed where the model failed on these rows; python_model_late and
                python_model_lost where other rows would have failed, too.
        """
        rows = to_ipc_batch(frame_batch(self.manifest.encoder, frame))
        request = ScoreRequest(rows, [frame.num_rows], time.time_ns() // 1000)
        try:
            [result] = await asyncio.wait_for(self._connected().score(request), self._timeout_s)
        except TimeoutError as error:
            raise RayloopError(
                "rayloop.python_model_late", version=self._version.version, limit_s=self._timeout_s
            ) from error
        # A lost connection, or what Serve raises when no replica runs.
        except Exception as error:
            raise RayloopError(
                "rayloop.python_model_lost", version=self._version.version, reason=type(error).__name__
            ) from error
        if result.scores is None:
            raise RayloopError("rayloop.python_model_failed", version=self._version.version, error=result.error)
        return result.scores

    def close(self) -> None:
        """Close all connections, those in use after their answer."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> ChallengerClient:
        if self._client is None:
            # The processes that only check a version need neither.
            import ray
            from ray import serve

            handle = serve.get_deployment_handle("PythonServer", python_app_name(self._version))
            self._client = ChallengerClient(handle, ray.get_runtime_context().get_node_id())
        return self._client


def is_about_the_rows(failure: Exception) -> bool:
    """Whether a failure may be that of some of the rows, so that the others are worth another try."""
    return getattr(failure, "code", "") not in ("rayloop.python_model_late", "rayloop.python_model_lost")
