"""Looks as Ray tasks: one at a time, given up when it takes too long.

A look takes seconds of a CPU that replicas of the same machine answer on: it runs at the lowest priority that the system
has, in a process of its own that ends with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from monitoring.analysis.log_analysis import Asked, Looked

LIMIT_S = 900.0
_LOWEST = 19


class RayTasks:
    """``look`` is pickled with each task; it reads what it needs where it runs."""

    def __init__(self, look: Callable[[Asked], Looked], limit_s: float = LIMIT_S) -> None:
        self._task: Any = ray.remote(num_cpus=1, max_retries=1, max_calls=1)(_run)
        self._look = look
        self._limit_s = limit_s
        self._under_way: ray.ObjectRef | None = None
        self._began = 0.0

    def start(self, asked: Asked) -> None:
        self._began = time.monotonic()
        self._under_way = self._task.remote(self._look, asked)

    def finished(self) -> Looked | str | None:
        """What was seen, or why nothing could be; None while none has ended."""
        under_way = self._under_way
        if under_way is None:
            return None
        if ray.wait([under_way], timeout=0)[0]:
            self._under_way = None
            try:
                found: Looked = ray.get(under_way)
            except RayError as error:
                return str(error).strip().splitlines()[-1]
            return found
        if time.monotonic() - self._began > self._limit_s:
            self._under_way = None
            ray.cancel(under_way, force=True)
            return f"it took more than {self._limit_s:.0f} s"
        return None


def _run(look: Callable[[Asked], Looked], asked: Asked) -> Looked:
    os.nice(_LOWEST)
    return look(asked)
