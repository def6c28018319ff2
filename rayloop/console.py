"""Text for the console: progress with time, stage and message, and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_STAGE_WIDTH = 10


class ProgressConsole:
    """Prints a line for each message, and adds up the seconds of each stage."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stage = "start"
        self.seconds: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def __call__(self, line: str) -> None:
        """Print ``line`` with the time since the start and the current stage."""
        minutes, seconds = divmod(int(self.elapsed_s), 60)
        sys.stdout.write(f"{minutes:3d}:{seconds:02d}  {self._stage:<{_STAGE_WIDTH}} {line}\n")
        sys.stdout.flush()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Messages inside the block belong to stage ``name``; the time of several blocks adds up."""
        before, began = self._stage, time.monotonic()
        self._stage = name
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            self._stage = before


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are aligned.

    Args:
        rows: The cells, those of the header first.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
