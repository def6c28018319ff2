"""A notification about an alarm of version 7."""

from __future__ import annotations

from cluster.values import Alarm
from monitoring.detection.notification_payloads import Moment, Notification
from monitoring.drift_policy import DAY_S


def notification(moment: Moment = "alarm") -> Notification:
    alarm = Alarm(model="m", version="7", window=DAY_S, reason="x moved", features={"x": 1.5}, kind="quality")
    return Notification(moment=moment, alarm=alarm, action="retrain", outcome="job-1", at=DAY_S)
