"""Actions on alarms: journaled before and after, within limits; deliveries are journaled, and failed ones counted."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.values import Alarm
from monitoring.detection.alarm_actions import AlarmResponder
from monitoring.detection.notification_payloads import Notification
from monitoring.drift_policy import DAY_S, DriftPolicy, NotificationTarget

ONE, OTHER = NotificationTarget(url="http://one"), NotificationTarget(url="http://other")
POLICY = DriftPolicy(notify=(ONE, OTHER), budget=2, cooldown_s=0.0)


class Sink:
    """Keeps what it is given to send, and reports the deliveries that a test puts into ``ended``."""

    def __init__(self) -> None:
        self.sent: list[tuple[Notification, NotificationTarget]] = []
        self.ended: list[tuple[Notification, NotificationTarget, str]] = []

    def send(self, notification: Notification, target: NotificationTarget) -> None:
        self.sent.append((notification, target))

    def poll(self) -> list[tuple[Notification, NotificationTarget, str]]:
        ended, self.ended = self.ended, []
        return ended


class World:
    """A responder with a sink, what it counted, and the journal's outcomes at every save."""

    def __init__(self, failing: bool = False) -> None:
        self.sink, self.counts, self.saved = Sink(), Counter[str](), list[list[str]]()
        self.retrained: list[Alarm] = []

        def retrain(alarm: Alarm) -> str:
            if failing:
                raise RuntimeError("no room")
            self.retrained.append(alarm)
            return f"job-{len(self.retrained)}"

        self.responder = AlarmResponder({"retrain": retrain}, self.sink, self._save, self._count)

    def _save(self) -> None:
        self.saved.append([entry.outcome for entry in self.responder.journal])

    def _count(self, event: str, error: str = "") -> None:
        self.counts[event] += 1


def alarm(day: int = 1) -> Alarm:
    return Alarm(model="m", version="7", window=day * DAY_S, reason="x moved", features={"x": 1.5})


def test_alarm_is_journaled_before_and_after_its_action() -> None:
    world = World()
    world.responder.respond(POLICY, alarm())
    assert world.saved == [[""], ["job-1"]]
    (entry,) = world.responder.journal
    assert (entry.action, entry.failed, entry.notices) == ("retrain", False, {ONE.url: "", OTHER.url: ""})
    assert [(n.outcome, target) for n, target in world.sink.sent] == [("job-1", ONE), ("job-1", OTHER)]
    assert world.counts == {"alarms": 1, "actions": 1}


def test_action_that_fails_is_journaled_and_counted() -> None:
    world = World(failing=True)
    world.responder.respond(POLICY, alarm())
    (entry,) = world.responder.journal
    assert (entry.outcome, entry.failed) == ("RuntimeError: no room", True)
    assert world.counts == {"alarms": 1, "actions": 1, "failures": 1}


def test_action_beyond_the_budget_is_held() -> None:
    world = World()
    for day in (1, 2, 3):
        world.responder.respond(POLICY, alarm(day))
    assert [entry.action for entry in world.responder.journal] == ["retrain", "retrain", "held"]
    assert len(world.retrained) == len(world.responder.actions) == 2


@pytest.mark.parametrize(("outcome", "failures"), [("sent", 0), ("status 500", 1)])
def test_delivery_that_ended_is_journaled_and_counted_if_it_failed(outcome: str, failures: int) -> None:
    world = World()
    for day in (1, 2):
        world.responder.respond(POLICY, alarm(day))
    notification, target = world.sink.sent[0]
    world.sink.ended, world.saved = [(notification, target, outcome)], []
    world.responder.collect_deliveries()
    first, second = world.responder.journal
    assert first.notices == {ONE.url: outcome, OTHER.url: ""}
    assert second.notices == {ONE.url: "", OTHER.url: ""}
    assert (world.counts["failures"], len(world.saved)) == (failures, 1)
    world.responder.collect_deliveries()
    assert len(world.saved) == 1, "no delivery ended, and nothing is saved"


def test_resumed_responder_finishes_what_was_in_progress() -> None:
    before, after = World(failing=True), World()
    before.responder.respond(POLICY, alarm())
    (entry,) = before.responder.journal
    after.responder.journal = [entry.model_copy(update={"outcome": "", "failed": False})]
    after.responder.resume(POLICY)
    assert [e.outcome for e in after.responder.journal] == ["job-1"]
    assert [target for _, target in after.sink.sent] == [ONE, OTHER]
    after.responder.resume(POLICY)
    assert len(after.retrained) == 1


def test_quiet_traffic_is_notified_to_each_receiver() -> None:
    world = World()
    world.responder.notify_quiet(POLICY, "m", "7", DAY_S)
    assert [(n.moment, n.alarm.window, target) for n, target in world.sink.sent] == [
        ("quiet", DAY_S, ONE),
        ("quiet", DAY_S, OTHER),
    ]


def test_journal_keeps_the_newest_200_alarms() -> None:
    responder = AlarmResponder({}, None, lambda: None, lambda event, error="": None)
    for day in range(201):
        responder.respond(POLICY, alarm(day))
    assert [entry.alarm.window for entry in responder.journal] == [day * DAY_S for day in range(1, 201)]
