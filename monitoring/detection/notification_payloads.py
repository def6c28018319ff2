"""Notifications about alarms as bytes, for a webhook and for the Prometheus Alertmanager. Pure.

webhook       {"moment": "alarm" | "quiet", "alarm": Alarm, "action": …, "outcome": …, "at": seconds}; with a secret,
              signed like rollout webhooks (cluster/webhooks.py)
Alertmanager  POST /api/v2/alerts, a list of one alert (OpenAPI document of Alertmanager, v2). Its labels name model,
              version and kind, so that a later alarm of the same kind updates the same alert. ``endsAt`` says until
              when it fires unless it is sent again; once traffic is quiet, it is sent with that time.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.values import Alarm, Frozen

Moment = Literal["alarm", "quiet"]

ALERTS_PATH = "/api/v2/alerts"
ALERT_TTL_S = 7 * 86_400.0
"""How long Alertmanager shows an alarm that is neither repeated nor ended."""
_CRITICAL = ("quality",)
"""Kinds of alarm that say that the model is wrong, not that it may be."""


class Notification(Frozen):
    """An alarm with what was done about it, or the quiet after it."""

    moment: Moment
    alarm: Alarm
    action: str
    outcome: str
    at: float
    """Wall-clock seconds since the epoch."""


def webhook_body(notification: Notification) -> bytes:
    """The JSON that a webhook receives."""
    return json.dumps(notification.model_dump(mode="json")).encode()


def alertmanager_body(notification: Notification) -> bytes:
    """The JSON that an Alertmanager receives."""
    alarm = notification.alarm
    labels = {
        "alertname": f"Rayloop{alarm.kind.capitalize()}",
        "model": alarm.model,
        "version": alarm.version,
        "kind": alarm.kind,
        "severity": "critical" if alarm.kind in _CRITICAL else "warning",
    }
    annotations = {
        "summary": f"{alarm.model} v{alarm.version}: {alarm.kind}",
        "description": alarm.reason,
        "action": f"{notification.action}: {notification.outcome}" if notification.outcome else notification.action,
        "features": ", ".join(f"{name} {ratio:.2f}" for name, ratio in list(alarm.features.items())[:10]),
    }
    if alarm.level is not None and alarm.monthly is not None:
        annotations["false_alarms"] = f"level {alarm.level:.2g}, at most {alarm.monthly:.2g} of this kind in 30 days"
    ends = notification.at if notification.moment == "quiet" else notification.at + ALERT_TTL_S
    alert: dict[str, Any] = {"labels": labels, "annotations": annotations, "endsAt": _format_time(ends)}
    if notification.moment == "alarm":
        alert["startsAt"] = _format_time(notification.at)
    return json.dumps([alert]).encode()


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
