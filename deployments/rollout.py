"""A rollout as a state machine: verdicts and commands in, states and journal entries out. Pure.

running ──advance──▶ running at the next share … ──advance at 100 %──▶ promoted
   │ ▲                                                                   ▲
 pause resume                                              promote ──────┘ (by hand, at any share)
   ▼ │
paused  ──abort (by hand, by evidence, or because the challenger cannot be served)──▶ aborted
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from cluster.contracts import Decision, Frozen
from cluster.errors import RolloutError
from deployments.judge import Verdict
from deployments.policy import RolloutPolicy

Status = Literal["running", "paused", "promoted", "aborted"]
Command = Literal["pause", "resume", "abort", "promote"]


class RolloutState(Frozen):
    """Where a rollout stands. ``since`` is when the present step began, seconds since the epoch."""

    id: str
    model: str
    champion: str
    challenger: str
    policy: RolloutPolicy
    step: int
    since: float
    status: Status
    reason: str

    @property
    def active(self) -> bool:
        return self.status in ("running", "paused")

    def step_age_s(self, now: float) -> float:
        """Seconds at this step that count towards its deadline; none do while it is paused."""
        return 0.0 if self.status == "paused" else now - self.since

    @property
    def share(self) -> float:
        """The challenger's share of requests, as it should be."""
        return self.policy.steps[self.step] if self.active else 0.0


def begin(id: str, model: str, champion: str, challenger: str, policy: RolloutPolicy, now: float) -> RolloutState:
    """A rollout at its first step."""
    if champion == challenger:
        raise RolloutError(f"{model} v{challenger} is the champion already", "name another version")
    reason = f"v{challenger} on trial against v{champion}"
    return RolloutState(
        id=id,
        model=model,
        champion=champion,
        challenger=challenger,
        policy=policy,
        step=0,
        since=now,
        status="running",
        reason=reason,
    )


def advance(state: RolloutState, verdict: Verdict, now: float) -> tuple[RolloutState, Decision]:
    """Apply a verdict. A paused rollout does not advance, but harm aborts it all the same."""
    if not state.active or verdict.kind == "hold" or (state.status == "paused" and verdict.kind == "advance"):
        # Why a person paused it stays to be read.
        after = state if state.status == "paused" else state.model_copy(update={"reason": verdict.reason})
        return after, entry(after, "hold", now, verdict.figures)
    if verdict.kind == "abort":
        return _end(state, "aborted", verdict.reason, now, verdict.figures)
    if state.step + 1 == len(state.policy.steps):
        return _end(state, "promoted", verdict.reason, now, verdict.figures)
    after = state.model_copy(update={"step": state.step + 1, "since": now, "reason": verdict.reason})
    return after, entry(after, "advance", now, verdict.figures)


def command(state: RolloutState, order: Command, reason: str, now: float) -> tuple[RolloutState, Decision]:
    """Apply a person's order. Raises RolloutError when it makes no sense in this state."""
    if not state.active or (order, state.status) in (("pause", "paused"), ("resume", "running")):
        raise RolloutError(f"cannot {order} rollout {state.id} of {state.model}: it is {state.status}")
    if order == "abort":
        return _end(state, "aborted", reason, now, {})
    if order == "promote":
        return _end(state, "promoted", reason, now, {})
    status = "paused" if order == "pause" else "running"
    # Time spent paused does not count towards the step's deadline.
    after = state.model_copy(update={"status": status, "since": now, "reason": reason})
    return after, entry(after, order, now, {})


def entry(state: RolloutState, action: str, now: float, figures: dict[str, float]) -> Decision:
    """The journal entry that says how ``state`` came about."""
    return Decision.model_validate(
        {
            "rollout": state.id,
            "at": now,
            "action": action,
            "share": state.share,
            "reason": state.reason,
            "champion": state.champion,
            "challenger": state.challenger,
            "evidence": {name: value for name, value in figures.items() if math.isfinite(value)},
        }
    )


def replay(model: str, decisions: Sequence[Decision], policy: RolloutPolicy) -> RolloutState:
    """The state after the journal entries of one rollout, oldest first."""
    first = decisions[0]
    state = begin(first.rollout, model, first.champion, first.challenger, policy, first.at)
    for decision in decisions[1:]:
        state = _replayed(state, decision)
    return state


def _replayed(state: RolloutState, decision: Decision) -> RolloutState:
    update: dict[str, object] = {"reason": decision.reason}
    if decision.action == "advance":
        update |= {"step": state.step + 1, "since": decision.at}
    elif decision.action in ("pause", "resume"):
        update |= {"status": "paused" if decision.action == "pause" else "running", "since": decision.at}
    elif decision.action in ("promote", "abort"):
        update |= {"status": "promoted" if decision.action == "promote" else "aborted"}
    return state.model_copy(update=update)


def _end(
    state: RolloutState, status: Literal["promoted", "aborted"], reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    after = state.model_copy(update={"status": status, "reason": reason})
    return after, entry(after, "promote" if status == "promoted" else "abort", now, figures)
