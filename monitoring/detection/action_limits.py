"""How often an alarm may act: a cool-down after any action, and a budget of retrains. Pure."""

from __future__ import annotations

from pydantic import Field

from cluster.values import Alarm, Frozen
from monitoring.detection.detector import day
from monitoring.drift_policy import DAY_S, Action, DriftPolicy


class Acted(Frozen):
    """An action, and the event-time start of the window whose alarm it was taken on."""

    action: Action
    window: float


def held_back(policy: DriftPolicy, past: tuple[Acted, ...], action: Action, window: float) -> str:
    """Why an action must not be taken now; "" when it may."""
    if past and window < past[-1].window + policy.cooldown_s:
        return f"cooling down until {day(past[-1].window + policy.cooldown_s)}"
    retrained = sum(one.action == "retrain" and one.window > window - policy.budget_s for one in past)
    if action == "retrain" and retrained >= policy.budget:
        return f"budget of {policy.budget} retrains per {policy.budget_s / DAY_S:g} days is spent"
    return ""


def taken(policy: DriftPolicy, past: tuple[Acted, ...], action: Action, window: float) -> tuple[Acted, ...]:
    """``past`` with the action; what is too old to hold anything back is dropped."""
    matters = max(policy.budget_s, policy.cooldown_s)
    return (*(one for one in past if one.window > window - matters), Acted(action=action, window=window))


class Entry(Frozen):
    """An alarm and what was done about it. ``at`` is wall-clock seconds since the epoch.

    ``action`` is "retrain", "rollback", "notify" or "held"; ``outcome`` what the action returned, why it was held back,
    or how it failed; empty while the action is under way. ``notices`` has for each receiver's address "sent", or why
    not; empty while it is under way.
    """

    at: float
    alarm: Alarm
    action: str
    outcome: str = ""
    failed: bool = False
    notices: dict[str, str] = Field(default_factory=dict)
