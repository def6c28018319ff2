"""Send notifications to webhooks and Alertmanagers from a thread, so that the monitor waits for no receiver."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from cluster import webhooks
from monitoring.detection.notification_payloads import ALERTS_PATH, Notification, alertmanager_body, webhook_body
from monitoring.drift_policy import NotificationTarget

SENT = "sent"
ATTEMPTS = 3
PAUSE_S = 1.0
"""Seconds before the second attempt; twice as long before the third."""


class Notifier:
    """Sends one notification after the other; ``poll`` returns the deliveries that have ended."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        """Start the sending thread; ``pause_s`` seconds pass before the second attempt, twice that before the third."""
        self._pause_s = pause_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="notifications")
        self._in_flight: list[tuple[Notification, NotificationTarget, Future[str]]] = []

    def send(self, notification: Notification, target: NotificationTarget) -> None:
        """Queue a notification."""
        future = self._pool.submit(deliver, notification, target, self._pause_s)
        self._in_flight.append((notification, target, future))

    def poll(self) -> list[tuple[Notification, NotificationTarget, str]]:
        """Deliveries that ended since the last call, each with SENT or the reason of its failure."""
        ended = [delivery for delivery in self._in_flight if delivery[2].done()]
        self._in_flight = [delivery for delivery in self._in_flight if delivery not in ended]
        return [(notification, target, future.result()) for notification, target, future in ended]

    def close(self) -> None:
        """Wait until everything queued has been sent or has failed."""
        self._pool.shutdown(wait=True)


def deliver(notification: Notification, target: NotificationTarget, pause_s: float) -> str:
    """Send a notification, in up to ATTEMPTS attempts.

    Args:
        notification: What to send.
        target: The receiver.
        pause_s: Seconds before the second attempt; twice that before the third.

    Returns:
        SENT once the receiver has answered 2xx, else the reason of the last failure.
    """
    alerts = target.kind == "alertmanager"
    failure = asyncio.run(
        webhooks.send(
            target.url.rstrip("/") + ALERTS_PATH if alerts else target.url,
            alertmanager_body(notification) if alerts else webhook_body(notification),
            timeout_s=target.timeout_s,
            secret_env=target.secret_env,
            attempts=ATTEMPTS,
            pause_s=pause_s,
        )
    )
    return failure or SENT
