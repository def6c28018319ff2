"""Whether this replica can still be told to stop: a lease that the cluster's head renews.

An order to end a rollout reaches the replicas that Serve can reach. One that is cut off from the head would go on
answering with the challenger, and Serve, which takes it for dead after a while, no longer waits for it. Its lease is
over before that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LEASE_S = 10.0
"""Seconds after the head's last answer. Ray needs 15 at least to take a node that it cannot reach for dead."""
RENEW_EVERY_S = 2.0

_log = logging.getLogger(__name__)


class OrderLease:
    """Asks the head in a thread of its own, which waits for as long as the head is away. The first use starts it.

    Args:
        ask: Returns when the head has answered.
        now: Monotonic clock, seconds.
    """

    def __init__(self, ask: Callable[[], object], now: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._now = ask, now
        self._thread: threading.Thread | None = None
        self._renewed = 0.0
        self._closing = threading.Event()

    def held(self) -> bool:
        """Whether the head has answered lately."""
        if self._thread is None:
            # Serve has just sent this replica its first split.
            self._renewed = self._now()
            self._thread = threading.Thread(target=self._run, name="order-lease", daemon=True)
            self._thread.start()
        return self._now() - self._renewed < LEASE_S

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(RENEW_EVERY_S):
            # An answer may be on its way for long.
            asked = self._now()
            try:
                self._ask()
            except Exception:
                # Each failure is a time without an answer.
                _log.exception("the head does not answer")
            else:
                self._renewed = asked
