"""Progress lines of a running benchmark."""

from __future__ import annotations

import time


class ProgressPrinter:
    """Prints lines with the time since the start, and a prefix if ``prefix`` is set."""

    def __init__(self, prefix: str = "") -> None:
        self._started = time.monotonic()
        self.prefix = prefix

    def __call__(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        prefix = f"{self.prefix}: " if self.prefix else ""
        print(f"[{minutes:02d}:{seconds:02d}] {prefix}{line}", flush=True)
