"""The door to those who are told of alarms: HTTP POST from a thread of its own, so that nobody waits for a receiver."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from cluster.signing import SIGNATURE, signature
from monitoring.detection.notification_payloads import ALERTS_PATH, Notice, alertmanager, webhook
from monitoring.drift_policy import Receiver

SENT = "sent"
ATTEMPTS = 3
PAUSE_S = 1.0


class Notifier:
    """Sends one notice after the other; ``finished`` tells how those ended that have."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="notices")
        self._under_way: list[tuple[Notice, Receiver, Future[str]]] = []

    def send(self, notice: Notice, receiver: Receiver) -> None:
        self._under_way.append((notice, receiver, self._pool.submit(deliver, notice, receiver, self._pause_s)))

    def finished(self) -> list[tuple[Notice, Receiver, str]]:
        """Each with SENT, or why it was not."""
        done = [(notice, receiver, ended.result()) for notice, receiver, ended in self._under_way if ended.done()]
        self._under_way = [one for one in self._under_way if not one[2].done()]
        return done


def deliver(notice: Notice, receiver: Receiver, pause_s: float) -> str:
    """SENT once the receiver has answered 2xx, at the latest after ATTEMPTS; else what the last one ran into.

    ``pause_s`` is what is waited before the second attempt, and twice that before the third.
    """
    failure = ""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * pause_s)
        try:
            status = _post(notice, receiver)
        except (httpx.HTTPError, httpx.InvalidURL, KeyError) as error:
            failure = f"{type(error).__name__}: {error}"
            continue
        if 200 <= status < 300:
            return SENT
        failure = f"HTTP {status}"
    return failure


def _post(notice: Notice, receiver: Receiver) -> int:
    """Raises KeyError naming the variable of a secret that this process does not have."""
    alerts = receiver.kind == "alertmanager"
    body = alertmanager(notice) if alerts else webhook(notice)
    headers = {"content-type": "application/json"}
    if receiver.secret_env:
        headers[SIGNATURE] = signature(os.environ[receiver.secret_env], body)
    url = receiver.url.rstrip("/") + ALERTS_PATH if alerts else receiver.url
    return httpx.post(url, content=body, headers=headers, timeout=receiver.timeout_s).status_code
