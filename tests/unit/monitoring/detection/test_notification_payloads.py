"""Notifications as bytes."""

from __future__ import annotations

import json

from monitoring.detection.notification_payloads import alertmanager_body, webhook_body
from tests.factories.monitoring.notifications import notification


def test_alertmanager_body_of_a_later_alarm_updates_the_same_alert():
    (alarm,) = json.loads(alertmanager_body(notification()))
    (quiet,) = json.loads(alertmanager_body(notification("quiet")))
    assert alarm["startsAt"] == "1970-01-02T00:00:00+00:00"
    # Unless it is sent again, it ends after a week.
    assert alarm["endsAt"] == "1970-01-09T00:00:00+00:00"
    assert alarm["annotations"]["description"] == "x moved"
    assert alarm["labels"] == {
        "alertname": "RayloopQuality",
        "model": "m",
        "version": "7",
        "kind": "quality",
        "severity": "critical",
    }
    assert quiet["labels"] == alarm["labels"]
    assert quiet["endsAt"] == "1970-01-02T00:00:00+00:00"
    assert "startsAt" not in quiet
    assert json.loads(webhook_body(notification()))["outcome"] == "job-1"


def test_alertmanager_body_says_what_the_alarm_spent():
    before = notification()
    (alert,) = json.loads(alertmanager_body(before))
    assert "false_alarms" not in alert["annotations"]
    alarm = before.alarm.model_copy(update={"level": 0.0133, "monthly": 0.4})
    (alert,) = json.loads(alertmanager_body(before.model_copy(update={"alarm": alarm})))
    assert alert["annotations"]["false_alarms"] == "level 0.013, at most 0.4 of this kind in 30 days"
