"""What a benchmark says while it runs."""

from __future__ import annotations

import time


class Teller:
    """Says what happens, where if ``place`` is set, and when, counted from the start."""

    def __init__(self, place: str = "") -> None:
        self._started = time.monotonic()
        self.place = place

    def __call__(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        place = f"{self.place}: " if self.place else ""
        print(f"[{minutes:02d}:{seconds:02d}] {place}{line}", flush=True)
