"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 120.0
_PAUSE_S = 0.1

Found = TypeVar("Found")


def until(
    ask: Callable[[], Found], what: str, deadline_s: float = DEADLINE_S, not_yet: tuple[type[Exception], ...] = ()
) -> Found:
    """The first true answer; an exception of ``not_yet`` is none. Fails the test when there is none in time."""
    end, pause = time.monotonic() + deadline_s, threading.Event()
    while True:
        try:
            if result := ask():
                return result
        except not_yet:
            """Not up yet, or on its way back."""
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}"
        pause.wait(_PAUSE_S)
