"""What is told of an alarm, as bytes: to a webhook, and to Prometheus' Alertmanager. Pure.

webhook       {"moment": "alarm" | "quiet", "alarm": Alarm, "action": …, "outcome": …, "at": seconds}; where a secret is
              named, header ``x-rayloop-signature`` as of rollout webhooks (cluster/signing.py)
Alertmanager  POST /api/v2/alerts, a list of one alert (OpenAPI document of Alertmanager, v2). Its labels name model, version
              and kind, so that a later alarm of the same kind is the same alert. ``endsAt`` says until when it stands
              unless it is told again; once traffic is quiet, it is told with the time of that.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.values import Alarm, Frozen

Moment = Literal["alarm", "quiet"]

ALERTS_PATH = "/api/v2/alerts"
STANDS_S = 7 * 86_400.0
"""How long Alertmanager shows an alarm that nobody ends."""
_CRITICAL = ("quality",)
"""Kinds of alarm that say that the model is wrong, not that it may be."""


class Notice(Frozen):
    """An alarm with what is done about it, or the quiet after it. ``at``: wall clock, seconds since the epoch."""

    moment: Moment
    alarm: Alarm
    action: str
    outcome: str
    at: float


def webhook(notice: Notice) -> bytes:
    return json.dumps(notice.model_dump(mode="json")).encode()


def alertmanager(notice: Notice) -> bytes:
    alarm = notice.alarm
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
        "action": f"{notice.action}: {notice.outcome}" if notice.outcome else notice.action,
        "features": ", ".join(f"{name} {ratio:.2f}" for name, ratio in list(alarm.features.items())[:10]),
    }
    ends = notice.at if notice.moment == "quiet" else notice.at + STANDS_S
    alert: dict[str, Any] = {"labels": labels, "annotations": annotations, "endsAt": _time(ends)}
    if notice.moment == "alarm":
        alert["startsAt"] = _time(notice.at)
    return json.dumps([alert]).encode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
