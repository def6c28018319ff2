"""Run log analyses as Ray tasks: one at a time, canceled if it takes too long.

An analysis takes seconds of a CPU that replicas of the same machine use: it runs at the system's lowest priority, in a
separate process that ends with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult

LIMIT_S = 900.0
_LOWEST_PRIORITY = 19


class RayAnalysisRunner:
    """Runs an analysis function as a Ray task."""

    def __init__(self, analyze: Callable[[AnalysisRequest], AnalysisResult], limit_s: float = LIMIT_S) -> None:
        """Prepare the task.

        Args:
            analyze: The analysis; it is pickled with each task and reads what it needs where it runs.
            limit_s: Seconds after which a task is canceled.
        """
        self._task: Any = ray.remote(num_cpus=1, max_retries=1, max_calls=1)(_run)
        self._analyze = analyze
        self._limit_s = limit_s
        self._running: ray.ObjectRef[Any] | None = None
        self._started_at = 0.0

    def start(self, request: AnalysisRequest) -> None:
        """Start an analysis."""
        self._started_at = time.monotonic()
        self._running = self._task.remote(self._analyze, request)

    def poll(self) -> AnalysisResult | str | None:
        """The result, or why there is none; None while the analysis runs."""
        running = self._running
        if running is None:
            return None
        if ray.wait([running], timeout=0)[0]:
            self._running = None
            try:
                return ray.get(running)
            except RayError as error:
                return str(error).strip().splitlines()[-1]
        if time.monotonic() - self._started_at > self._limit_s:
            self._running = None
            ray.cancel(running, force=True)
            return f"it took more than {self._limit_s:.0f} s"
        return None


def _run(analyze: Callable[[AnalysisRequest], AnalysisResult], request: AnalysisRequest) -> AnalysisResult:
    os.nice(_LOWEST_PRIORITY)
    return analyze(request)
