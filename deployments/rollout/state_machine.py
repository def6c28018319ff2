"""A rollout as a state machine: decisions and commands in, states and journal entries out. Pure.

running ──advance──▶ running at the next share … ──advance at 100 %──▶ promoted
 │  │ ▲                                                                  ▲
 │ pause (by hand), a gate is reached, or               promote ─────────┘ (by hand, at any share)
 │  │ │ the evidence is invalid; resume (by hand)
 │  ▼ │
 │ paused, waiting, invalid
 └──abort (by hand, by evidence, or because no challenger can be served), from any of these──▶ aborted

promoted, aborted ──roll back──▶ rolled back: an earlier champion answers again

An invalid rollout stays at its step: nothing advances, no deadline runs, and a challenger is aborted only for harm that
its own requests show. A person resumes it; the evidence from before is then set aside.

On the path of health, a promoted version is on probation until labels decide (probation.py); the rollout has ended.

Several challengers share a step equally, and advance together. One that is worse is dropped: its part goes to the
champion, and the step restarts for the others. At the last step before 100% one is chosen. An advance that leaves a
single challenger gives it the whole share of the current step; from then on the rollout has one challenger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict

from cluster.errors import RolloutError
from cluster.times import format_utc
from cluster.values import AFTER_PROMOTION, Decision, Frozen, stored_name
from deployments.analysis.verdict import RolloutDecision
from deployments.rollout.advance_guards import apply_guards
from deployments.rollout_policy import RolloutPolicy
from deployments.traffic_split import slice_start

Status = Literal["running", "paused", "waiting", "invalid", "promoted", "aborted", "rolled back"]
Command = Literal["pause", "resume", "abort", "promote"]

_END_STATUS: dict[str, Status] = {"promote": "promoted", "abort": "aborted", "rollback": "rolled back"}
_GATE = "gate"
"""Key, in a journal entry's figures, of the share at which a gate paused the rollout."""
_CHECK = "invalid_"
"""Prefix of the key, in a journal entry's figures, that names the check of the evidence that failed."""


class RolloutState(Frozen):
    """State of a rollout."""

    # Webhooks receive this state as JSON: its field names are part of their contract.
    model_config = ConfigDict(serialize_by_alias=True)

    id: str
    model: str
    champion: str
    """Version that answers the requests that no challenger answers."""
    initial_challengers: Annotated[tuple[str, ...], stored_name("initial_challengers", "entrants")]
    """Versions that the rollout started with."""
    challengers: tuple[str, ...]
    """Versions on trial; after the end those that were on trial then."""
    policy: RolloutPolicy
    parts: int
    """Equal parts into which a step's share is divided."""
    step: int
    """Index into the policy's steps."""
    since: float
    """Start of the current step, or the end of the rollout, seconds since the epoch."""
    status: Status
    reason: str
    """Why the rollout is in this state."""
    opened_step: Annotated[int, stored_name("opened_step", "opened")] = -1
    """Step whose gate a person has opened; -1 for none."""
    remark: str = ""
    """Why the rollout holds, as last journaled."""
    check: str = ""
    """Which check of the evidence failed; empty once a person has resumed the rollout."""
    evidence_since: float = 0.0
    """Rows from before are set aside, seconds since the epoch: a person resumed an invalid rollout then."""
    started: float = 0.0
    """Start of the rollout, seconds since the epoch."""
    on_probation: bool = False
    """Whether the version was promoted on health, and labels have not decided yet."""
    late_harm: bool = False
    """Whether labels showed that the promoted version is worse, and the policy left it in place."""

    @property
    def active(self) -> bool:
        """Whether the rollout has not ended."""
        return self.status in ("running", "paused", "waiting", "invalid")

    @property
    def answering_version(self) -> str:
        """The version that answers all requests after the end; before it, those that no challenger answers."""
        return self.challengers[0] if self.status == "promoted" else self.champion

    @property
    def labels_due(self) -> float | None:
        """When the first labels are expected, on the path of health, seconds since the epoch."""
        policy = self.policy
        return None if policy.path == "labels" or policy.label_delay_s is None else self.started + policy.label_delay_s

    def step_age_s(self, now: float) -> float:
        """Seconds at this step that count toward its deadline: 0 unless the rollout runs."""
        return now - self.since if self.status == "running" else 0.0

    def bake_left_s(self, now: float) -> float:
        """Seconds that the challengers must still stay at this step: 0 once its gate is open."""
        return 0.0 if self.opened_step == self.step else self.policy.bake_s - self.step_age_s(now)

    @property
    def share(self) -> float:
        """Desired share of requests of each challenger."""
        return self.policy.steps[self.step] / self.parts if self.active else 0.0

    @property
    def starts(self) -> tuple[float, ...]:
        """Start of each challenger's slice of [0, 1), in the order of ``challengers``; it never moves."""
        return tuple(
            slice_start(self.initial_challengers.index(version), len(self.initial_challengers))
            for version in self.challengers
        )

    @property
    def chooses_next(self) -> bool:
        """Whether the next advance chooses one of several challengers: after it the champion has no requests."""
        return len(self.challengers) > 1 and self.step + 2 == len(self.policy.steps)

    @property
    def at_closed_gate(self) -> bool:
        """Whether this step has a gate that no person has opened yet."""
        gate = any(math.isclose(self.policy.steps[self.step], gate) for gate in self.policy.gates)
        return gate and self.opened_step != self.step


def begin(
    id: str, model: str, champion: str, challengers: Sequence[str], policy: RolloutPolicy, now: float
) -> RolloutState:
    """Begin a rollout.

    Args:
        id: Name of the rollout.
        model: Name of the model.
        champion: Version that is served now.
        challengers: Versions to put on trial.
        policy: Steps and criteria.
        now: Seconds since the epoch.

    Returns:
        The rollout at its first step.

    Raises:
        RolloutError: These versions cannot compete under this policy.
    """
    if champion in challengers:
        raise RolloutError("rollout.challenger_is_champion", model=model, version=champion)
    if not challengers or len(set(challengers)) < len(challengers):
        raise RolloutError("rollout.challengers_not_unique", model=model, challengers=tuple(challengers))
    if len(challengers) > 1 and len(policy.steps) == 1:
        raise RolloutError("rollout.no_step_below_one", model=model, steps=policy.steps)
    mode = ", in a dry run" if policy.dry_run else ""
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
        started=now,
        status="running",
        reason=f"{format_versions(challengers)} on trial against v{champion}{mode}",
    )


def apply_decision(state: RolloutState, decision: RolloutDecision, now: float) -> tuple[RolloutState, Decision]:
    """Apply a decision on the evidence.

    A rollout that is paused, waits at a gate or is invalid does not advance, but challengers that are worse are still
    dropped.

    Args:
        state: State before the decision.
        decision: What the verdicts ask for.
        now: Seconds since the epoch.

    Returns:
        The state after it and its journal entry; the action "hold" changes nothing.
    """
    if decision.kind == "invalid" and state.active and not state.check:
        return _invalidate(state, decision, now)
    if state.status == "running" or decision.kind in ("abort", "drop"):
        decision = apply_guards(decision, state.policy, state.share, state.bake_left_s(now), now)
    if not state.active or decision.kind in ("hold", "invalid"):
        return _hold(state, decision, now)
    if state.status != "running" and decision.kind == "advance":
        return _hold(state, decision, now)
    if decision.kind == "abort":
        return _end(state, "aborted", decision.reason, now, decision.figures)
    if decision.kind == "drop":
        return drop_challenger(state, decision.versions[0], decision.reason, now, decision.figures)
    if state.at_closed_gate:
        reason = f"the gate at {state.share:.0%} waits for a person to resume or promote; {decision.reason}"
        after = state.model_copy(update={"status": "waiting", "since": now, "reason": reason, "remark": ""})
        return after, journal_entry(after, "pause", now, decision.figures | {_GATE: state.share})
    if state.step + 1 == len(state.policy.steps):
        return _end(state, "promoted", decision.reason, now, decision.figures)
    after = _advance(state, decision.versions, decision.reason, now)
    return after, journal_entry(after, "advance", now, decision.figures)


def drop_challenger(
    state: RolloutState, version: str, reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    """Drop one challenger; the rollout continues with the others, or ends with the last one.

    Args:
        state: State before the drop.
        version: The challenger.
        reason: Why it is dropped.
        now: Seconds since the epoch.
        figures: Evidence for the journal entry.

    Returns:
        The state after the drop and its journal entry.
    """
    if state.challengers == (version,):
        return _end(state, "aborted", reason, now, figures)
    after = _remove_challenger(state, version, reason, now)
    return after, journal_entry(after.model_copy(update={"reason": reason}), "drop", now, figures, (version,))


def _invalidate(state: RolloutState, decision: RolloutDecision, now: float) -> tuple[RolloutState, Decision]:
    update = {"reason": decision.reason, "remark": decision.remark, "check": decision.check or ""}
    after = state.model_copy(update={"status": "invalid", "since": now} | update)
    return after, journal_entry(after, "invalid", now, decision.figures | {f"{_CHECK}{decision.check}": 1.0})


def _hold(state: RolloutState, decision: RolloutDecision, now: float) -> tuple[RolloutState, Decision]:
    # The reason for a pause, or for waiting, stays readable.
    reason = decision.reason if state.status == "running" else state.reason
    after = state.model_copy(update={"reason": reason, "remark": decision.remark})
    return after, journal_entry(after.model_copy(update={"reason": decision.reason}), "hold", now, decision.figures)


def apply_command(
    state: RolloutState, command: Command, reason: str, now: float, version: str = "", rollout: str = ""
) -> tuple[RolloutState, Decision]:
    """Apply a person's command.

    Args:
        state: State before the command.
        command: "pause", "resume", "abort" or "promote".
        reason: The person's reason.
        now: Seconds since the epoch.
        version: Of several challengers, the one to promote, or to abort alone.
        rollout: The rollout that the command is for; empty: the newest one. A late command must not affect the next.

    Returns:
        The state after the command and its journal entry.

    Raises:
        RolloutError: The command does not apply to this state.
    """
    model, status, challengers = state.model, state.status, state.challengers
    if rollout and rollout != state.id:
        raise RolloutError(
            "rollout.not_the_newest", rollout=rollout, newest=state.id, command=command, model=model, status=status
        )
    if not state.active or (command, status) in (("pause", "paused"), ("resume", "running")):
        raise RolloutError(
            "rollout.command_not_applicable", command=command, rollout=state.id, status=status, model=model
        )
    if version and (command not in ("abort", "promote") or version not in challengers):
        raise RolloutError(
            "rollout.version_not_applicable", model=model, command=command, version=version, challengers=challengers
        )
    if command == "abort":
        return drop_challenger(state, version, reason, now, {}) if version else _end(state, "aborted", reason, now, {})
    if command == "promote":
        if len(challengers) > 1 and not version:
            raise RolloutError("rollout.version_ambiguous", model=model, challengers=challengers)
        chosen = state.model_copy(update={"challengers": (version,) if version else challengers})
        return _end(chosen, "promoted", reason, now, {})
    after = _pause_or_resume(state, command, now).model_copy(update={"reason": reason})
    return after, journal_entry(after, command, now, {})


def roll_back(
    state: RolloutState, champion: str, reason: str, now: float, figures: dict[str, float] | None = None
) -> tuple[RolloutState, Decision]:
    """Restore an earlier champion after the newest rollout.

    The journal records it: otherwise a controller that restarts would restore what was promoted.

    Args:
        state: State after the newest rollout.
        champion: Version to restore.
        reason: Why.
        now: Seconds since the epoch.
        figures: Evidence for the journal entry.

    Returns:
        The state after it and its journal entry.

    Raises:
        RolloutError: The newest rollout has not ended.
    """
    if state.active:
        raise RolloutError("rollout.in_progress", model=state.model, rollout=state.id)
    update = {
        "status": "rolled back",
        "champion": champion,
        "challengers": (state.answering_version,),
        "reason": reason,
        "remark": "",
        "since": now,
        "on_probation": False,
        "late_harm": False,
    }
    after = state.model_copy(update=update)
    return after, journal_entry(after, "rollback", now, figures or {})


def format_versions(versions: Sequence[str]) -> str:
    """Format versions for people, such as "v2, v3"."""
    return ", ".join(f"v{version}" for version in versions)


def journal_entry(
    state: RolloutState, action: str, now: float, figures: dict[str, float], about: tuple[str, ...] = ()
) -> Decision:
    """Build the journal entry of the action that led to a state.

    Args:
        state: State after the action.
        action: Name of the action.
        now: Seconds since the epoch.
        figures: Evidence; values that are not finite are left out.
        about: Versions that the action is about; empty: all on trial.
    """
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


def replay(model: str, entries: Sequence[Decision], policy: RolloutPolicy) -> RolloutState:
    """Rebuild the state of a rollout from its journal entries, oldest first."""
    first = entries[0]
    state = begin(first.rollout, model, first.champion, first.challengers, policy, first.at)
    for entry in entries[1:]:
        # A "hold" is a remark: it changes nothing.
        state = state if entry.action == "hold" else _replay_entry(state, entry)
    return state


def _replay_entry(state: RolloutState, entry: Decision) -> RolloutState:
    update: dict[str, Any] = {"reason": entry.reason}
    if entry.action == "advance":
        return _advance(state, entry.challengers, entry.reason, entry.at)
    if entry.action == "drop":
        return _remove_challenger(state, entry.challengers[0], entry.reason, entry.at)
    if entry.action == "pause" and _GATE in entry.evidence:
        update |= {"status": "waiting", "since": entry.at}
    elif entry.action == "invalid":
        check = next((name.removeprefix(_CHECK) for name in entry.evidence if name.startswith(_CHECK)), "")
        update |= {"status": "invalid", "since": entry.at, "check": check, "remark": f"invalid: {check}"}
    elif entry.action in ("pause", "resume"):
        state = _pause_or_resume(state, entry.action, entry.at)
    elif status := _END_STATUS.get(entry.action):
        update |= {"status": status, "champion": entry.champion, "challengers": entry.challengers}
        # On the path of health, labels decide after every promotion, also after one by hand.
        update |= {"since": entry.at, "on_probation": status == "promoted" and state.policy.path == "health"}
        update["late_harm"] = False
    elif entry.action in AFTER_PROMOTION:
        update |= {"on_probation": False, "late_harm": entry.action == "alarm"}
    return state.model_copy(update=update)


def _advance(state: RolloutState, versions: tuple[str, ...], reason: str, now: float) -> RolloutState:
    """Move to the same part of the next step, or to the whole of this step if a single challenger remains."""
    is_single = state.parts > 1 and len(versions) == 1
    position: dict[str, Any] = {"parts": 1, "opened_step": -1} if is_single else {"step": state.step + 1}
    return state.model_copy(update=position | {"challengers": versions, "since": now, "reason": reason, "remark": ""})


def _remove_challenger(state: RolloutState, version: str, reason: str, now: float) -> RolloutState:
    remaining = tuple(challenger for challenger in state.challengers if challenger != version)
    # The reason for a pause, or for waiting, stays readable.
    update = {"reason": reason} if state.status == "running" else {}
    return state.model_copy(update={"challengers": remaining, "since": now, "remark": ""} | update)


def _pause_or_resume(state: RolloutState, command: str, now: float) -> RolloutState:
    """Pause or resume. The step's time toward its deadline restarts."""
    if command == "pause":
        return state.model_copy(update={"status": "paused", "since": now})
    update: dict[str, Any] = {"status": "running", "since": now}
    if state.status == "waiting":
        update |= {"opened_step": state.step}
    if state.check:
        # What was wrong may be in all of it.
        update |= {"check": "", "remark": "", "evidence_since": now}
    return state.model_copy(update=update)


def _end(
    state: RolloutState, status: Literal["promoted", "aborted"], reason: str, now: float, figures: dict[str, float]
) -> tuple[RolloutState, Decision]:
    on_probation = status == "promoted" and state.policy.path == "health"
    if on_probation:
        reason = f"promoted on health; {format_due(state)}; {reason}"
    update = {"status": status, "reason": reason, "remark": "", "since": now, "on_probation": on_probation}
    after = state.model_copy(update=update)
    return after, journal_entry(after, "promote" if status == "promoted" else "abort", now, figures)


def format_due(state: RolloutState) -> str:
    """Say when labels may first decide, on the path of health."""
    due = state.labels_due
    if due is None:
        return "it is not known when labels come"
    return f"first labeled verdict due {format_utc(due, '%Y-%m-%d')}"
