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
        self._last = self._epoch_start = time.perf_counter()
        self._sampled_seconds: dict[str, float] = {}
        self._full_seconds: dict[str, float] = {}

    def start_epoch(self, earlier_seconds: Mapping[str, float] | None = None) -> None:
        """Start an epoch; ``earlier_seconds`` are its seconds by stage before a resume."""
        self._sampled_seconds = {}
        self._full_seconds = dict.fromkeys(STAGES, 0.0) | dict(earlier_seconds or {})
        self._last = self._epoch_start = time.perf_counter()
        self._epoch_start -= sum(self._full_seconds.values())

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of the epoch, including those before a resume."""
        return time.perf_counter() - self._epoch_start

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the epoch by stage."""
        return {
            stage: seconds + self._every * self._sampled_seconds.get(stage, 0.0)
            for stage, seconds in self._full_seconds.items()
        }

    def step(self) -> None:
        """Start a step, which begins with the wait for its rows."""
        self._steps += 1
        if self._every > 1 and self._is_sampled:
            torch.cuda.synchronize()
            self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End ``stage`` of this step."""
        if self._every > 1:
            if not self._is_sampled:
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
        self._full_seconds[stage] += spent
        self._last += spent

    @property
    def _is_sampled(self) -> bool:
        return self._steps % self._every == 0
