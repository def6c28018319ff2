"""What a person sees while the loop runs: stage, step, time; and where the time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STAGE_WIDTH = 10


class ProgressConsole:
    """Prints one line a step and keeps the seconds of each stage."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stage = "start"
        self.seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, line: str) -> None:
        """Print ``line`` with the time since the start and the current stage."""
        minutes, seconds = divmod(int(self.elapsed_s), 60)
        sys.stdout.write(f"{minutes:3d}:{seconds:02d}  {self._stage:<{_STAGE_WIDTH}} {line}\n")
        sys.stdout.flush()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Lines inside belong to ``name``; its time adds up over several visits."""
        before, began = self._stage, time.monotonic()
        self._stage = name
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            self._stage = before
