"""Where the time of training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from trainers.loop.train_events import STAGES

SAMPLED = 32


class Clock:
    """Gives the time since the last mark to the stage that ends there.

    A GPU works behind the program's back: there one step in 32 is followed to its end and timed, and stands for the others.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = SAMPLED if device.type == "cuda" else 1
        self._steps = -1
        self._last = self._began = time.perf_counter()
        self._marked: dict[str, float] = {}
        self._whole: dict[str, float] = {}

    def begin(self, spent: Mapping[str, float] | None = None) -> None:
        """A new epoch, of which ``spent`` were used before."""
        self._marked = {}
        self._whole = dict.fromkeys(STAGES, 0.0) | dict(spent or {})
        self._last = self._began = time.perf_counter()
        self._began -= sum(self._whole.values())

    @property
    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds of the epoch, by the wall clock; those before a resumption included."""
        return time.perf_counter() - self._began

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the epoch by stage."""
        return {stage: whole + self._every * self._marked.get(stage, 0.0) for stage, whole in self._whole.items()}

    def step(self) -> None:
        """A step begins, with the wait for its rows."""
        self._steps += 1
        if self._every > 1 and self._sampled:
            torch.cuda.synchronize()
            self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """``stage`` of this step ends."""
        if self._every > 1:
            if not self._sampled:
                return
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._marked[stage] = self._marked.get(stage, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """What happens inside belongs to ``stage``; it is timed at every step."""
        before = time.perf_counter()
        yield
        spent = time.perf_counter() - before
        self._whole[stage] += spent
        self._last += spent

    @property
    def _sampled(self) -> bool:
        return self._steps % self._every == 0
