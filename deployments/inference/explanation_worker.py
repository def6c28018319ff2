"""Explains rows of a replica in a thread of their own, one request at a time, so that predictions do not wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pyarrow as pa

from cluster.errors import DataError, RequestError
from deployments.inference.predictor import Scorer
from features.attributions.explanation import RowExplanation

MAX_EXPLAINED_ROWS = 32
"""Most rows of a request with explanations."""
MAX_WAITING = 16
"""Most requests that are explained or wait for it; more get 503."""
_RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)


class ExplanationWorker:
    """Explains the rows of one replica."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explanations")
        self._requests = 0

    @asynccontextmanager
    async def admit(self, scorer: Scorer, rows: int) -> AsyncIterator[None]:
        """Hold a place for a request while its rows are scored and explained.

        Args:
            scorer: The champion, whose explanation stands in for a challenger's.
            rows: Rows of the request.

        Raises:
            RequestError: 413 for too many rows, 503 when too many requests wait, 409 when the version has no explainer.
        """
        if rows > MAX_EXPLAINED_ROWS:
            raise RequestError("request.too_many_explained_rows", field="inputs", rows=rows, limit=MAX_EXPLAINED_ROWS)
        if self._requests >= MAX_WAITING:
            headers = {"retry-after": str(_RETRY_AFTER_S)}
            raise RequestError("request.explanations_busy", headers=headers, limit=MAX_WAITING)
        self._requests += 1
        try:
            if not await asyncio.get_running_loop().run_in_executor(self._thread, _is_explainable, scorer):
                raise RequestError("request.not_explainable", version=scorer.version)
            yield
        finally:
            self._requests -= 1

    async def explain(self, scorer: Scorer, frame: pa.Table, scores: np.ndarray) -> list[RowExplanation]:
        """Explain rows.

        Args:
            scorer: The version that scored them; it has an explainer.
            frame: Their feature frame.
            scores: Their scores.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, scorer.explain, frame, scores)

    async def try_explain(self, scorer: Scorer, frame: pa.Table, scores: np.ndarray) -> list[RowExplanation]:
        """Explain rows; empty if the version has no explainer."""
        if not await asyncio.get_running_loop().run_in_executor(self._thread, _is_explainable, scorer):
            return []
        return await self.explain(scorer, frame, scores)


def _is_explainable(scorer: Scorer) -> bool:
    try:
        return scorer.explainer is not None
    except DataError as error:
        _log.warning("%s", error)
        return False
