"""Time of training by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from trainers.loop.train_events import STAGES

GPU_SAMPLE_EVERY = 32
"""Steps per timed step on a GPU."""


class StageTimer:
    """Assigns the time since the last mark to the stage that ends there.

    A GPU runs asynchronously: one step in 32 is synchronized and timed, and represents the others.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = GPU_SAMPLE_EVERY if device.type == "cuda" else 1
        self._steps = -1
        self._last = self._started = time.perf_counter()
        self._sampled_seconds: dict[str, float] = {}
        self._unsampled: dict[str, float] = {}

    def start_epoch(self, spent: Mapping[str, float] | None = None) -> None:
        """Start an epoch; ``spent`` are its seconds by stage before a resume."""
        self._sampled_seconds = {}
        self._unsampled = dict.fromkeys(STAGES, 0.0) | dict(spent or {})
        self._last = self._started = time.perf_counter()
        self._started -= sum(self._unsampled.values())

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of the epoch, including those before a resume."""
        return time.perf_counter() - self._started

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the epoch by stage."""
        return {
            stage: seconds + self._every * self._sampled_seconds.get(stage, 0.0)
            for stage, seconds in self._unsampled.items()
        }

    def step(self) -> None:
        """Start a step, which begins with the wait for its rows."""
        self._steps += 1
        if self._every > 1 and self._sampled:
            torch.cuda.synchronize()
            self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End ``stage`` of this step."""
        if self._every > 1:
            if not self._sampled:
                return
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._sampled_seconds[stage] = self._sampled_seconds.get(stage, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Assign the time of the block to ``stage``; every block is timed, also on a GPU."""
        before = time.perf_counter()
        yield
        spent = time.perf_counter() - before
        self._unsampled[stage] += spent
        self._last += spent

    @property
    def _sampled(self) -> bool:
        return self._steps % self._every == 0
