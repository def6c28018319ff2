"""A rollout as a state machine: rulings and commands in, states and journal entries out. Pure.

running ──advance──▶ running at the next share … ──advance at 100 %──▶ promoted
 │  │ ▲                                                                  ▲
 │ pause (by hand), or a gate is reached; resume        promote ─────────┘ (by hand, at any share)
 │  ▼ │
 │ paused, waiting
 └──abort (by hand, by evidence, or because no challenger can be served), from any of these──▶ aborted

promoted, aborted ──roll back──▶ rolled back: an earlier champion answers again

Several challengers share a step equally, and advance together. One that is worse is dropped: its part goes to the
champion, and the step begins anew for the others. At the last step before 100 % one is chosen. An advance that leaves a
single challenger gives it the whole of the step that it is at; from there on it is a rollout like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from cluster.errors import RolloutError
from cluster.values import Decision, Frozen
from deployments.analysis.verdict import RolloutDecision
from deployments.inference.traffic_split import slice_start
from deployments.rollout.advance_guards import apply_guards
from deployments.rollout_policy import RolloutPolicy

Status = Literal["running", "paused", "waiting", "promoted", "aborted", "rolled back"]
Command = Literal["pause", "resume", "abort", "promote"]

_GATE = "gate"
"""Names, in a journal entry's figures, the gate that paused the rollout."""


class RolloutState(Frozen):
    """Where a rollout stands. ``since`` is when the present step began, seconds since the epoch.

    ``challengers`` are those still on trial of the ``entrants``, or those that were at the end; a step's share is divided
    into equal ``parts``. ``opened`` is the step whose gate a person has opened; ``remark`` what the journal was last
    told of a hold.
    """

    # Webhooks receive this state as JSON: its field names are part of their contract.
    model_config = ConfigDict(serialize_by_alias=True)

    id: str
    model: str
    champion: str
    initial_challengers: tuple[str, ...] = Field(
        validation_alias=AliasChoices("initial_challengers", "entrants"), serialization_alias="entrants"
    )
    challengers: tuple[str, ...]
    policy: RolloutPolicy
    parts: int
    step: int
    since: float
    status: Status
    reason: str
    opened_step: int = Field(
        default=-1, validation_alias=AliasChoices("opened_step", "opened"), serialization_alias="opened"
    )
    remark: str = ""

    @property
    def active(self) -> bool:
        return self.status in ("running", "paused", "waiting")

    @property
    def answering_version(self) -> str:
        """The version that has all requests once the rollout has ended; until then the one that answers the others' share."""
        return self.challengers[0] if self.status == "promoted" else self.champion

    def step_age_s(self, now: float) -> float:
        """Seconds at this step that count towards its deadline; none do while it is paused or waits at a gate."""
        return now - self.since if self.status == "running" else 0.0

    def bake_left_s(self, now: float) -> float:
        """Seconds that the challenger has yet to stay at this step; none once its gate was opened."""
        return 0.0 if self.opened_step == self.step else self.policy.bake_s - self.step_age_s(now)

    @property
    def share(self) -> float:
        """Each challenger's share of requests, as it should be."""
        return self.policy.steps[self.step] / self.parts if self.active else 0.0

    @property
    def starts(self) -> tuple[float, ...]:
        """Where the slice of each of ``challengers`` begins; it never moves."""
        return tuple(
            slice_start(self.initial_challengers.index(version), len(self.initial_challengers))
            for version in self.challengers
        )

    @property
    def chooses_next(self) -> bool:
        """Whether the next advance is that of one of several: beyond this step the champion has no requests."""
        return len(self.challengers) > 1 and self.step + 2 == len(self.policy.steps)

    @property
    def at_closed_gate(self) -> bool:
        """Whether a person has yet to open this step's gate."""
        gate = any(math.isclose(self.policy.steps[self.step], gate) for gate in self.policy.gates)
        return gate and self.opened_step != self.step


def begin(
    id: str, model: str, champion: str, challengers: Sequence[str], policy: RolloutPolicy, now: float
) -> RolloutState:
    """A rollout at its first step. Raises RolloutError when these versions cannot compete."""
    if champion in challengers:
        raise RolloutError(f"{model} v{champion} is the champion already", "name another version")
    if not challengers or len(set(challengers)) < len(challengers):
        raise RolloutError(
            f"{model}: {format_versions(challengers)} is no list of different versions", "name each once"
        )
    if len(challengers) > 1 and len(policy.steps) == 1:
        raise RolloutError(
            f"{model}: several challengers are compared while the champion answers too",
            "declare a step below 1, such as (0.5, 1.0)",
        )
    reason = f"{format_versions(challengers)} on trial against v{champion}" + (
        ", in a dry run" if policy.dry_run else ""
    )
    return RolloutState(
        id=id,
        model=model,
        champion=champion,
        initial_challengers=tuple(challengers),
        challengers=tuple(challengers),
        policy=policy,
        parts=len(challengers),
        step=0,
        since=now,
        status="running",
        reason=reason,
    )


def apply_decision(state: RolloutState, ruling: RolloutDecision, now: float) -> tuple[RolloutState, Decision]:
    """Apply a ruling. A rollout that is paused, or waits, does not advance, but harm ends or thins it all the same."""
    if state.status == "running" or ruling.kind in ("abort", "drop"):
        ruling = apply_guards(ruling, state.policy, state.share, state.bake_left_s(now), now)
    if not state.active or ruling.kind == "hold" or (state.status != "running" and ruling.kind == "advance"):
        return _hold(state, ruling, now)
    if ruling.kind == "abort":
        return _end(state, "aborted", ruling.reason, now, ruling.figures)
    if ruling.kind == "drop":
        return drop_challenger(state, ruling.versions[0], ruling.reason, now, ruling.figures)
    if state.at_closed_gate:
        reason = f"the gate at {state.share:.0%} waits for a person to resume or promote; {ruling.reason}"
        after = state.model_copy(update={"status": "waiting", "since": now, "reason": reason, "remark": ""})
        return after, journal_entry(after, "pause", now, ruling.figures | {_GATE: state.share})
    if state.step + 1 == len(state.policy.steps):
        return _end(state, "promoted", ruling.reason, now, ruling.figures)
    after = _advanced(state, ruling.versions, ruling.reason, now)
    return after, journal_entry(after, "advance", now, ruling.figures)


def drop_challenger(
    state: RolloutState, version: str, reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    """Take one challenger out; the rollout goes on with the others, or ends with the last."""
    if state.challengers == (version,):
        return _end(state, "aborted", reason, now, figures)
    after = _without(state, version, reason, now)
    return after, journal_entry(after.model_copy(update={"reason": reason}), "drop", now, figures, (version,))


def _hold(state: RolloutState, ruling: RolloutDecision, now: float) -> tuple[RolloutState, Decision]:
    # Why a person paused it, or what it waits for, stays to be read.
    reason = ruling.reason if state.status == "running" else state.reason
    after = state.model_copy(update={"reason": reason, "remark": ruling.remark})
    return after, journal_entry(after.model_copy(update={"reason": ruling.reason}), "hold", now, ruling.figures)


def apply_command(
    state: RolloutState, order: Command, reason: str, now: float, version: str = "", rollout: str = ""
) -> tuple[RolloutState, Decision]:
    """Apply a person's order. Raises RolloutError when it makes no sense in this state.

    A promotion of one of several names its ``version``; an abort that does takes out that one alone. An order that
    names a ``rollout`` is for no other: given too late it must not hit the next one.
    """
    if rollout and rollout != state.id:
        raise RolloutError(
            f"{order} is for rollout {rollout} of {state.model}, the newest is {state.id} ({state.status})",
            "see `rayloop status`",
        )
    if not state.active or (order, state.status) in (("pause", "paused"), ("resume", "running")):
        raise RolloutError(f"cannot {order} rollout {state.id} of {state.model}: it is {state.status}")
    if version and (order not in ("abort", "promote") or version not in state.challengers):
        raise RolloutError(
            f"cannot {order} v{version} of {state.model}",
            f"on trial is {format_versions(state.challengers)}; pause stops all",
        )
    if order == "abort":
        return drop_challenger(state, version, reason, now, {}) if version else _end(state, "aborted", reason, now, {})
    if order == "promote":
        if len(state.challengers) > 1 and not version:
            raise RolloutError(
                f"on trial of {state.model} is {format_versions(state.challengers)}", "say which: --version"
            )
        chosen = state.model_copy(update={"challengers": (version,) if version else state.challengers})
        return _end(chosen, "promoted", reason, now, {})
    after = _turned(state, order, now).model_copy(update={"reason": reason})
    return after, journal_entry(after, order, now, {})


def roll_back(state: RolloutState, champion: str, reason: str, now: float) -> tuple[RolloutState, Decision]:
    """Have an earlier ``champion`` answer again, after the newest rollout; raises RolloutError while that is under way.

    It is an entry like any other: a controller that begins anew would else bring back what was promoted.
    """
    if state.active:
        raise RolloutError(f"{state.model} has a rollout under way: {state.id}", "abort it first")
    told = {
        "status": "rolled back",
        "champion": champion,
        "challengers": (state.answering_version,),
        "reason": reason,
        "remark": "",
    }
    after = state.model_copy(update=told)
    return after, journal_entry(after, "rollback", now, {})


def format_versions(versions: Sequence[str]) -> str:
    """Versions as people read them."""
    return ", ".join(f"v{version}" for version in versions)


def journal_entry(
    state: RolloutState, action: str, now: float, figures: dict[str, float], about: tuple[str, ...] = ()
) -> Decision:
    """The journal entry that says how ``state`` came about; it is ``about`` those on trial unless others are named."""
    return Decision.model_validate(
        {
            "rollout": state.id,
            "at": now,
            "action": action,
            "share": state.share,
            "reason": state.reason,
            "champion": state.champion,
            "challengers": about or state.challengers,
            "evidence": {name: value for name, value in figures.items() if math.isfinite(value)},
        }
    )


def replay(model: str, decisions: Sequence[Decision], policy: RolloutPolicy) -> RolloutState:
    """The state after the journal entries of one rollout, oldest first."""
    first = decisions[0]
    state = begin(first.rollout, model, first.champion, first.challengers, policy, first.at)
    for decision in decisions[1:]:
        # An entry to hold is a remark: it changes nothing.
        state = state if decision.action == "hold" else _replayed(state, decision)
    return state


def _replayed(state: RolloutState, decision: Decision) -> RolloutState:
    update: dict[str, Any] = {"reason": decision.reason}
    if decision.action == "advance":
        return _advanced(state, decision.challengers, decision.reason, decision.at)
    if decision.action == "drop":
        return _without(state, decision.challengers[0], decision.reason, decision.at)
    if decision.action == "pause" and _GATE in decision.evidence:
        update |= {"status": "waiting", "since": decision.at}
    elif decision.action in ("pause", "resume"):
        state = _turned(state, decision.action, decision.at)
    elif decision.action in ("promote", "abort"):
        update |= {"status": "promoted" if decision.action == "promote" else "aborted"}
        update |= {"challengers": decision.challengers}
    elif decision.action == "rollback":
        update |= {"status": "rolled back", "champion": decision.champion, "challengers": decision.challengers}
    return state.model_copy(update=update)


def _advanced(state: RolloutState, versions: tuple[str, ...], reason: str, now: float) -> RolloutState:
    """At the next share: the same part of the next step, or the whole of this one for who goes on alone."""
    alone = state.parts > 1 and len(versions) == 1
    onwards: dict[str, Any] = {"parts": 1, "opened_step": -1} if alone else {"step": state.step + 1}
    told = {"challengers": versions, "since": now, "reason": reason, "remark": ""}
    return state.model_copy(update=onwards | told)


def _without(state: RolloutState, version: str, reason: str, now: float) -> RolloutState:
    left = tuple(one for one in state.challengers if one != version)
    # Why it is paused, or what it waits for, stays to be read.
    told = {"reason": reason} if state.status == "running" else {}
    return state.model_copy(update={"challengers": left, "since": now, "remark": ""} | told)


def _turned(state: RolloutState, order: str, now: float) -> RolloutState:
    """Paused, or running again. Time spent so does not count towards the step's deadline."""
    if order == "pause":
        return state.model_copy(update={"status": "paused", "since": now})
    opened = state.step if state.status == "waiting" else state.opened_step
    return state.model_copy(update={"status": "running", "since": now, "opened_step": opened})


def _end(
    state: RolloutState, status: Literal["promoted", "aborted"], reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    after = state.model_copy(update={"status": status, "reason": reason, "remark": ""})
    return after, journal_entry(after, "promote" if status == "promoted" else "abort", now, figures)
