"""A rollout as a state machine: verdicts and commands in, states and journal entries out. Pure.

running ──advance──▶ running at the next share … ──advance at 100 %──▶ promoted
 │  │ ▲                                                                  ▲
 │ pause (by hand), or a gate is reached; resume        promote ─────────┘ (by hand, at any share)
 │  ▼ │
 │ paused, waiting
 └──abort (by hand, by evidence, or because the challenger cannot be served), from any of these──▶ aborted
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from cluster.contracts import Decision, Frozen
from cluster.errors import RolloutError
from deployments.brakes import braked
from deployments.judge import Verdict
from deployments.policy import RolloutPolicy

Status = Literal["running", "paused", "waiting", "promoted", "aborted"]
Command = Literal["pause", "resume", "abort", "promote"]

_GATE = "gate"
"""Names, in a journal entry's figures, the gate that paused the rollout."""


class RolloutState(Frozen):
    """Where a rollout stands. ``since`` is when the present step began, seconds since the epoch.

    ``opened`` is the step whose gate a person has opened; ``remark`` what the journal was last told of a hold.
    """

    id: str
    model: str
    champion: str
    challenger: str
    policy: RolloutPolicy
    step: int
    since: float
    status: Status
    reason: str
    opened: int = -1
    remark: str = ""

    @property
    def active(self) -> bool:
        return self.status in ("running", "paused", "waiting")

    def step_age_s(self, now: float) -> float:
        """Seconds at this step that count towards its deadline; none do while it is paused or waits at a gate."""
        return now - self.since if self.status == "running" else 0.0

    def bake_left_s(self, now: float) -> float:
        """Seconds that the challenger has yet to stay at this step; none once its gate was opened."""
        return 0.0 if self.opened == self.step else self.policy.bake_s - self.step_age_s(now)

    @property
    def share(self) -> float:
        """The challenger's share of requests, as it should be."""
        return self.policy.steps[self.step] if self.active else 0.0

    @property
    def gated(self) -> bool:
        """Whether a person has yet to open this step's gate."""
        gate = any(math.isclose(self.share, gate) for gate in self.policy.gates)
        return gate and self.opened != self.step


def begin(id: str, model: str, champion: str, challenger: str, policy: RolloutPolicy, now: float) -> RolloutState:
    """A rollout at its first step."""
    if champion == challenger:
        raise RolloutError(f"{model} v{challenger} is the champion already", "name another version")
    reason = f"v{challenger} on trial against v{champion}" + (", in a dry run" if policy.dry_run else "")
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
    """Apply a verdict. A rollout that is paused, or waits, does not advance, but harm aborts it all the same."""
    if state.status == "running" or verdict.kind == "abort":
        verdict = braked(verdict, state.policy, state.share, state.bake_left_s(now), now)
    if not state.active or verdict.kind == "hold" or (state.status != "running" and verdict.kind == "advance"):
        return _hold(state, verdict, now)
    if verdict.kind == "abort":
        return _end(state, "aborted", verdict.reason, now, verdict.figures)
    if state.gated:
        reason = f"the gate at {state.share:.0%} waits for a person to resume or promote; {verdict.reason}"
        after = state.model_copy(update={"status": "waiting", "since": now, "reason": reason, "remark": ""})
        return after, entry(after, "pause", now, verdict.figures | {_GATE: state.share})
    if state.step + 1 == len(state.policy.steps):
        return _end(state, "promoted", verdict.reason, now, verdict.figures)
    update = {"step": state.step + 1, "since": now, "reason": verdict.reason, "remark": ""}
    after = state.model_copy(update=update)
    return after, entry(after, "advance", now, verdict.figures)


def _hold(state: RolloutState, verdict: Verdict, now: float) -> tuple[RolloutState, Decision]:
    # Why a person paused it, or what it waits for, stays to be read.
    reason = verdict.reason if state.status == "running" else state.reason
    after = state.model_copy(update={"reason": reason, "remark": verdict.remark})
    return after, entry(after.model_copy(update={"reason": verdict.reason}), "hold", now, verdict.figures)


def command(state: RolloutState, order: Command, reason: str, now: float) -> tuple[RolloutState, Decision]:
    """Apply a person's order. Raises RolloutError when it makes no sense in this state."""
    if not state.active or (order, state.status) in (("pause", "paused"), ("resume", "running")):
        raise RolloutError(f"cannot {order} rollout {state.id} of {state.model}: it is {state.status}")
    if order == "abort":
        return _end(state, "aborted", reason, now, {})
    if order == "promote":
        return _end(state, "promoted", reason, now, {})
    after = _turned(state, order, now).model_copy(update={"reason": reason})
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
        # An entry to hold is a remark: it changes nothing.
        state = state if decision.action == "hold" else _replayed(state, decision)
    return state


def _replayed(state: RolloutState, decision: Decision) -> RolloutState:
    update: dict[str, Any] = {"reason": decision.reason}
    if decision.action == "advance":
        update |= {"step": state.step + 1, "since": decision.at}
    elif decision.action == "pause" and _GATE in decision.evidence:
        update |= {"status": "waiting", "since": decision.at}
    elif decision.action in ("pause", "resume"):
        state = _turned(state, decision.action, decision.at)
    elif decision.action in ("promote", "abort"):
        update |= {"status": "promoted" if decision.action == "promote" else "aborted"}
    return state.model_copy(update=update)


def _turned(state: RolloutState, order: str, now: float) -> RolloutState:
    """Paused, or running again. Time spent so does not count towards the step's deadline."""
    if order == "pause":
        return state.model_copy(update={"status": "paused", "since": now})
    opened = state.step if state.status == "waiting" else state.opened
    return state.model_copy(update={"status": "running", "since": now, "opened": opened})


def _end(
    state: RolloutState, status: Literal["promoted", "aborted"], reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    after = state.model_copy(update={"status": status, "reason": reason, "remark": ""})
    return after, entry(after, "promote" if status == "promoted" else "abort", now, figures)
