"""How often an alarm may act: a cool-down after any action, and a budget of retrains. Pure."""

from __future__ import annotations

from pydantic import Field

from cluster.values import Alarm, Frozen
from monitoring.detection.detector import format_day
from monitoring.drift_policy import DAY_S, Action, DriftPolicy


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
    """``past`` with the action added, and without those too old to suppress another one."""
    horizon_s = max(policy.budget_s, policy.cooldown_s)
    recent = (record for record in past if record.window > window - horizon_s)
    return (*recent, ActionRecord(action=action, window=window))
