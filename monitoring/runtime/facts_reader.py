"""Read facts from stores in a thread, so that the monitor waits for no store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from monitoring.retraining.decision import LoopFacts
from monitoring.retraining.retrain_scheduler import Submit

Read = Callable[[tuple[str, ...]], LoopFacts]
"""Reads the facts, with the state of these jobs."""


class RetrainHandlers(NamedTuple):
    """What retraining by triggers needs from outside; both are pickled."""

    read: Read
    submit: Submit


class ThreadFactsReader:
    """Reads facts in a thread, one reading at a time."""

    def __init__(self, read: Read) -> None:
        """Start the thread; ``read`` gets the jobs whose state it should include."""
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="facts")
        self._reading: Future[LoopFacts] | None = None

    def start(self, jobs: tuple[str, ...]) -> None:
        """Start to read, unless a reading is in progress."""
        if self._reading is None:
            self._reading = self._pool.submit(self._read, jobs)

    def poll(self) -> LoopFacts | str | None:
        """The facts, or why there are none; None while they are read, or when no reading was started."""
        reading = self._reading
        if reading is None or not reading.done():
            return None
        self._reading = None
        error = reading.exception()
        return reading.result() if error is None else f"{type(error).__name__}: {error}"
