"""Act on alarms: within limits, journaled before and after, with notifications to the policy's receivers. Pure.

The limits are a cooldown after any action and a budget of retrains. The actions themselves are submitted as Ray jobs by
rayloop/stages/alarm_jobs.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pydantic import Field

from cluster.values import Alarm, Frozen
from monitoring.detection.detector import format_day
from monitoring.detection.notification_payloads import Notification
from monitoring.drift_policy import DAY_S, Action, DriftPolicy, NotificationTarget

AlarmAction = Callable[[Alarm], str]
"""Acts on an alarm and returns the name of what it started (a job id). After a crash it may be called again for the
same alarm: model, version and window identify the alarm, so that an action can recognize a repetition."""

MAX_ENTRIES = 200
"""Journal entries that are kept."""


class ActionRecord(Frozen):
    """An action that was taken."""

    action: Action
    window: float
    """Start of the window whose alarm it answered, seconds since the epoch, event time."""


class AlarmEntry(Frozen):
    """A journal entry: an alarm and what was done about it."""

    at: float
    """Wall-clock seconds since the epoch."""
    alarm: Alarm
    action: str
    """"retrain", "rollback", "notify", or "held" for an action that was suppressed."""
    outcome: str = ""
    """What the action returned, why it was suppressed, or how it failed; empty while it is in progress."""
    failed: bool = False
    notices: dict[str, str] = Field(default_factory=dict)
    """For each receiver's address "sent", or why it was not; empty while it is in progress."""


class NotificationSink(Protocol):
    """Sends notifications (monitoring/detection/notifier.py)."""

    def send(self, notification: Notification, target: NotificationTarget) -> None:
        """Start to send, without waiting."""

    def poll(self) -> list[tuple[Notification, NotificationTarget, str]]:
        """Deliveries that ended since the last call, each with "sent" or the reason of its failure."""


class AlarmResponder:
    """Journal, actions and notifications of one model.

    Attributes:
        journal: Alarms and what was done about them, oldest first.
        actions: Actions that still count against the limits.
    """

    def __init__(
        self,
        handlers: Mapping[Action, AlarmAction],
        sink: NotificationSink | None,
        save: Callable[[], None],
        count: Callable[..., None],
        withhold: Callable[[], str] = lambda: "",
        on_retrain: Callable[[AlarmEntry], None] = lambda entry: None,
    ) -> None:
        """Start with an empty journal.

        Args:
            handlers: What each action does; an action without one only notifies.
            sink: Sends notifications; None sends none.
            save: Writes all state to disk.
            count: Counts an event, with an error where there is one.
            withhold: Why no alarm may start a retraining now; "" when one may.
            on_retrain: Called with the entry of each retraining that was submitted, or failed to be.
        """
        self.journal: list[AlarmEntry] = []
        self.actions: tuple[ActionRecord, ...] = ()
        self._handlers = handlers
        self._sink = sink
        self._save = save
        self._count = count
        self._withhold, self._on_retrain = withhold, on_retrain

    def respond(self, policy: DriftPolicy, alarm: Alarm) -> None:
        """Journal the alarm, then act on it as the policy says and its limits allow."""
        self._count("alarms")
        action = self._configured_action(policy, alarm)
        suppressed = self._suppression(policy, action, alarm.window)
        if action != "notify" and not suppressed:
            self.actions = record_action(policy, self.actions, action, alarm.window)
        entry = AlarmEntry(
            at=time.time(),
            alarm=alarm,
            action="held" if suppressed else action,
            outcome=suppressed or ("journaled" if action == "notify" else ""),
            notices={target.url: "" for target in policy.notify} if self._sink else {},
        )
        self.journal = [*self.journal, entry][-MAX_ENTRIES:]
        self._save()
        self._send(policy, self._finish(entry))

    def act_on_held(self, policy: DriftPolicy, version: str, window: float) -> None:
        """Take the action that a version's newest drift alarm was refused, if it may be taken now: drift goes on.

        Args:
            policy: Action and limits.
            version: The version that drifts.
            window: Start of the window that shows it, seconds since the epoch.
        """
        drift = [entry for entry in self.journal if entry.alarm.kind == "drift" and entry.alarm.version == version]
        if not drift or drift[-1].action != "held":
            return
        alarm = drift[-1].alarm
        action = self._configured_action(policy, alarm)
        if action == "notify" or self._suppression(policy, action, window):
            return
        self.actions = record_action(policy, self.actions, action, window)
        # The receivers know of the alarm.
        entry = AlarmEntry(at=time.time(), alarm=alarm, action=action)
        self.journal = [*self.journal, entry][-MAX_ENTRIES:]
        self._save()
        self._finish(entry)

    def notify_quiet(self, policy: DriftPolicy, model: str, version: str, window: float) -> None:
        """Notify the receivers that traffic has been quiet for long enough to end the alarm."""
        if self._sink is None:
            return
        alarm = Alarm(model=model, version=version, window=window, reason="quiet again", features={})
        for target in policy.notify:
            self._sink.send(Notification(moment="quiet", alarm=alarm, action="", outcome="", at=time.time()), target)

    def resume(self, policy: DriftPolicy) -> None:
        """Continue what was in progress when the process ended."""
        for entry in [e for e in self.journal if not e.outcome]:
            self._finish(entry)
        for entry in self.journal:
            self._send(policy, entry)

    def collect_deliveries(self) -> None:
        """Journal the deliveries that have ended."""
        deliveries = self._sink.poll() if self._sink else []
        for notification, target, outcome in deliveries:
            if outcome != "sent":
                self._count("failures", f"{target.url}: {outcome}")
            for i, entry in enumerate(self.journal):
                if entry.alarm == notification.alarm and target.url in entry.notices:
                    self.journal[i] = entry.model_copy(update={"notices": {**entry.notices, target.url: outcome}})
        if deliveries:
            self._save()

    def _configured_action(self, policy: DriftPolicy, alarm: Alarm) -> Action:
        action = policy.action_on(alarm.kind)
        return action if action in self._handlers else "notify"

    def _suppression(self, policy: DriftPolicy, action: Action, window: float) -> str:
        """Why an action must not start now; "" when it may."""
        if action == "notify":
            return ""
        suppressed = suppression_reason(policy, self.actions, action, window)
        return suppressed or (self._withhold() if action == "retrain" else "")

    def _finish(self, entry: AlarmEntry) -> AlarmEntry:
        """Run the action that the journal has in progress. The journal is on disk before and after."""
        handler = self._handlers.get(entry.action)  # type: ignore[call-overload]
        if entry.outcome or handler is None:
            return entry
        self._count("actions")
        try:
            finished_entry = entry.model_copy(update={"outcome": handler(entry.alarm) or "done"})
        except Exception as error:
            # A project's action may raise anything; monitoring continues, and the journal has the error.
            finished_entry = entry.model_copy(update={"outcome": f"{type(error).__name__}: {error}", "failed": True})
            self._count("failures", finished_entry.outcome)
        self.journal[self.journal.index(entry)] = finished_entry
        if entry.action == "retrain":
            self._on_retrain(finished_entry)
        self._save()
        return finished_entry

    def _send(self, policy: DriftPolicy, entry: AlarmEntry) -> None:
        if self._sink is None:
            return
        notification = Notification(
            moment="alarm", alarm=entry.alarm, action=entry.action, outcome=entry.outcome, at=entry.at
        )
        for target in policy.notify:
            if entry.notices.get(target.url) == "":
                self._sink.send(notification, target)


def suppression_reason(policy: DriftPolicy, past: tuple[ActionRecord, ...], action: Action, window: float) -> str:
    """Why an action must not start now; "" when it may.

    Args:
        policy: Cool-down and budget.
        past: Actions so far, oldest first.
        action: The action in question.
        window: Start of the alarm's window, seconds since the epoch.
    """
    if past and window < past[-1].window + policy.cooldown_s:
        return f"cooling down until {format_day(past[-1].window + policy.cooldown_s)}"
    retrains = sum(record.action == "retrain" and record.window > window - policy.budget_s for record in past)
    if action == "retrain" and retrains >= policy.budget:
        return f"budget of {policy.budget} retrains per {policy.budget_s / DAY_S:g} days is spent"
    return ""


def record_action(
    policy: DriftPolicy, past: tuple[ActionRecord, ...], action: Action, window: float
) -> tuple[ActionRecord, ...]:
    """``past`` with the action added, and without those too old to suppress another one.

    Args:
        policy: Sets how long an action can suppress others.
        past: Earlier actions.
        action: The action that was taken.
        window: Start of the alarm's window, seconds since the epoch.
    """
    horizon_s = max(policy.budget_s, policy.cooldown_s)
    recent = (record for record in past if record.window > window - horizon_s)
    return (*recent, ActionRecord(action=action, window=window))
