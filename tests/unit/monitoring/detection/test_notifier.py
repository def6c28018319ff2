"""Delivery of notifications to receivers that are not there."""

from __future__ import annotations

from monitoring.detection.notifier import deliver
from monitoring.drift_policy import NotificationTarget
from tests.factories.monitoring.notifications import notification


def test_deliver_to_an_absent_receiver_returns_the_reason():
    target = NotificationTarget(url="http://127.0.0.1:9/none")
    assert "ConnectError" in deliver(notification(), target, pause_s=0.0)


def test_deliver_without_the_secret_returns_its_variable():
    target = NotificationTarget(url="http://127.0.0.1:9", secret_env="NOT_SET_AT_ALL")
    assert "NOT_SET_AT_ALL" in deliver(notification(), target, pause_s=0.0)
