"""Which retraining is due, by the triggers that a project declares, and what holds it back. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from cluster.times import format_utc
from cluster.values import Frozen
from monitoring.retraining.triggers import Cron, OnLabels, OnRows, RetrainPolicy, Trigger

MAX_ENTRIES = 200
"""Entries that are kept beyond the runs that still count against the budget."""
CLOCK_STEP_S = 3_600.0
"""A clock that goes back by more than this was wrong before; what lies in its future moves to now."""
ALARM = "alarm"
"""Trigger of a retraining that an alarm starts."""


class JobFacts(Frozen):
    """What the cluster knows about a job."""

    state: str
    """"running", or how it ended: "succeeded", "failed: ...", "stopped", "unknown" after the loss of the head."""
    minutes: float = 0.0
    """How long it has run."""

    @property
    def ended(self) -> bool:
        """Whether it runs no longer."""
        return self.state != "running"


class LoopFacts(Frozen):
    """What the stores and the cluster know about a model's loop."""

    rows: dict[str, int] = Field(default_factory=dict)
    """Rows that have landed, by source; that of the examples also under ""."""
    labels: int = 0
    """Labels in the label log."""
    rolling_out: bool = False
    """Whether a rollout is in progress."""
    jobs: dict[str, JobFacts] = Field(default_factory=dict)
    """The retraining jobs that were asked for."""


class RetrainEntry(Frozen):
    """An entry of the journal of retraining."""

    at: float
    """Wall-clock seconds since the epoch."""
    event: Literal["run", "missed", "withheld", "pause", "resume"]
    """run: a job was submitted. missed: runs of a schedule that do not take place. withheld: the budget is spent."""
    trigger: str = ""
    """As declared, or "alarm"; several are joined by commas. Empty for a person's entries."""
    reason: str = ""
    by: str = ""
    """Who paused or resumed."""
    job: str = ""
    outcome: str = ""
    """How the job ended; empty while it runs."""
    minutes: float = 0.0

    @property
    def in_progress(self) -> bool:
        """Whether it is a run that has not ended."""
        return self.event == "run" and not self.outcome


class TriggerState(Frozen):
    """What is remembered of a trigger."""

    since: float
    """Schedules: runs until then are dealt with. Others: when counting began."""
    count: int | None = None
    """Rows or labels then; None: those at the next look."""
    withheld: bool = False
    """Whether the journal says already that the budget withholds it."""


class RetrainState(Frozen):
    """What is remembered of a model's retraining."""

    triggers: dict[str, TriggerState] = Field(default_factory=dict)
    journal: tuple[RetrainEntry, ...] = ()
    """Oldest first."""
    paused: RetrainEntry | None = None
    """The entry that paused it."""

    def record(self, entry: RetrainEntry) -> RetrainState:
        """The state with another entry."""
        journal = (*self.journal, entry)
        kept = [e for e in journal[:-MAX_ENTRIES] if e.event == "run"][-MAX_ENTRIES:]
        return self.model_copy(update={"journal": (*kept, *journal[-MAX_ENTRIES:])})

    @property
    def in_progress(self) -> tuple[RetrainEntry, ...]:
        """Runs that have not ended."""
        return tuple(entry for entry in self.journal if entry.in_progress)


class BudgetLeft(NamedTuple):
    """What the budget still allows; None where it sets no limit."""

    runs: int | None
    minutes: float | None
    free_at: float | None
    """When the oldest run no longer counts; None when none counts."""


class _Due(NamedTuple):
    trigger: Trigger
    reason: str


def decide(
    policy: RetrainPolicy, state: RetrainState, facts: LoopFacts, now: float
) -> tuple[RetrainState, RetrainEntry | None]:
    """Decide whether a retraining starts now.

    One run answers all triggers that are due. While one is in progress, or a rollout is, nothing starts: rows and
    labels go on counting, and a schedule's run waits until it counts as missed.

    Args:
        policy: Triggers and budget.
        state: What is remembered.
        facts: What the stores know.
        now: Seconds since the epoch.

    Returns:
        What to remember, and the entry of the run that starts, if one does; its job is not known yet.
    """
    state = _finish(policy, _follow_clock(state, now), facts, now)
    state = _follow_declarations(policy, state, facts, now)
    if state.paused is not None:
        return skip_schedules(policy, state, now), None
    if state.in_progress or facts.rolling_out:
        return state, None
    due: list[_Due] = []
    for trigger in policy.on:
        mark = state.triggers[str(trigger)]
        if isinstance(trigger, Cron):
            state, reason = _check_schedule(trigger, mark, state, now)
        else:
            reason = _check_count(trigger, mark, facts)
        due += [_Due(trigger, reason)] if reason else []
    if not due:
        return state, None
    if spent := budget_reason(policy, state, now):
        return _withhold(state, due, spent, now), None
    entry = RetrainEntry(
        at=now,
        event="run",
        trigger=", ".join(str(each.trigger) for each in due),
        reason="; ".join(each.reason for each in due),
    )
    return restart_counts(policy, state, now, facts).record(entry), entry


def restart_counts(
    policy: RetrainPolicy, state: RetrainState, now: float, facts: LoopFacts | None = None, *, labels: bool = True
) -> RetrainState:
    """Count rows, and ``labels``, from these facts on, or from those of the next look: a run that starts has them."""
    marks = {
        str(trigger): TriggerState(since=now, count=None if facts is None else _count(trigger, facts))
        for trigger in policy.on
        if isinstance(trigger, (OnRows, OnLabels) if labels else OnRows)
    }
    return state.model_copy(update={"triggers": state.triggers | marks})


def suppression(policy: RetrainPolicy, state: RetrainState, now: float) -> str:
    """Why an alarm must not start a retraining now; "" when it may."""
    if state.paused is not None:
        return f"paused by {state.paused.by}: {state.paused.reason}"
    return budget_reason(policy, state, now)


def budget_left(policy: RetrainPolicy, state: RetrainState, now: float) -> BudgetLeft:
    """What the budget allows now. A run in progress counts with the minutes that it has taken so far.

    A job that could not be submitted is no run.
    """
    started = [e for e in state.journal if e.event == "run" and (e.job or e.in_progress)]
    runs = [e for e in started if e.at > now - policy.period_s]
    minutes = sum(max(0.0, now - e.at) / 60.0 if e.in_progress else e.minutes for e in runs)
    return BudgetLeft(
        None if policy.max_runs is None else max(0, policy.max_runs - len(runs)),
        None if policy.max_minutes is None else max(0.0, policy.max_minutes - minutes),
        min(e.at for e in runs) + policy.period_s if runs else None,
    )


def budget_reason(policy: RetrainPolicy, state: RetrainState, now: float) -> str:
    """Why the budget allows no run now; "" when it does."""
    left = budget_left(policy, state, now)
    if left.runs != 0 and left.minutes != 0.0:
        return ""
    limit = f"{policy.max_runs} runs" if left.runs == 0 else f"{policy.max_minutes:g} minutes"
    until = f" until {format_utc(left.free_at)} UTC" if left.free_at is not None else ""
    return f"the budget of {limit} in {policy.period_s / 86_400.0:g} days is spent{until}"


def new_since(trigger: OnRows | OnLabels, state: RetrainState, facts: LoopFacts | None) -> int | None:
    """Rows or labels since the count of a trigger began; None before the first look."""
    mark = state.triggers.get(str(trigger))
    return None if facts is None or mark is None or mark.count is None else max(0, _count(trigger, facts) - mark.count)


def _follow_clock(state: RetrainState, now: float) -> RetrainState:
    """Nothing runs twice when the clock goes back a little; after a large step, its future is forgotten."""
    latest = max((mark.since for mark in state.triggers.values()), default=now)
    latest = max([latest, *(entry.at for entry in state.journal)])
    if latest <= now + CLOCK_STEP_S:
        return state
    triggers = {name: mark.model_copy(update={"since": min(mark.since, now)}) for name, mark in state.triggers.items()}
    journal = tuple(entry.model_copy(update={"at": min(entry.at, now)}) for entry in state.journal)
    return state.model_copy(update={"triggers": triggers, "journal": journal})


def _finish(policy: RetrainPolicy, state: RetrainState, facts: LoopFacts, now: float) -> RetrainState:
    """Record how runs ended. Rows that landed during one are counted no more: its own ingestion landed them."""

    def with_outcome(entry: RetrainEntry) -> RetrainEntry:
        job = facts.jobs.get(entry.job)
        if not entry.in_progress or job is None or not job.ended:
            return entry
        return entry.model_copy(update={"outcome": job.state, "minutes": job.minutes})

    journal = tuple(map(with_outcome, state.journal))
    if journal == state.journal:
        return state
    return restart_counts(policy, state.model_copy(update={"journal": journal}), now, labels=False)


def _follow_declarations(policy: RetrainPolicy, state: RetrainState, facts: LoopFacts, now: float) -> RetrainState:
    """A new trigger begins now; one that is no longer declared is forgotten. Counts follow tables that shrink."""
    marks = {}
    for trigger in policy.on:
        mark = state.triggers.get(str(trigger), TriggerState(since=now))
        count = _count(trigger, facts)
        start = count if mark.count is None else min(mark.count, count)
        marks[str(trigger)] = mark.model_copy(update={"count": start})
    return state.model_copy(update={"triggers": marks})


def skip_schedules(policy: RetrainPolicy, state: RetrainState, now: float) -> RetrainState:
    """The state in which the runs of schedules until now, while retraining is paused, are journaled as missed."""
    for trigger in policy.on:
        mark = state.triggers.get(str(trigger))
        if mark is not None and isinstance(trigger, Cron):
            runs = trigger.occurrences(mark.since, now)
            if runs.newest is not None:
                state = _miss(state, trigger, f"{_runs(runs.total)} while paused", now)
    return state


def _check_schedule(trigger: Cron, mark: TriggerState, state: RetrainState, now: float) -> tuple[RetrainState, str]:
    """The state after a look at a schedule, and the reason of its run; "" when none is due."""
    runs = trigger.occurrences(mark.since, now)
    if runs.newest is None:
        return state, ""
    on_time = now - runs.newest.timestamp() <= trigger.tolerance_s
    missed = runs.total - on_time
    if missed and trigger.missed == "skip":
        state = _miss(state, trigger, f"{_runs(missed)} not started in time", now)
    if not on_time and trigger.missed == "skip":
        return state, ""
    state = _move(state, trigger, max(mark.since, now))
    caught_up = f", catching up with {_runs(missed)}" if missed and trigger.missed == "catch_up" else ""
    return state, f"{trigger}, due {format_local(runs.newest)}{caught_up}"


def _check_count(trigger: OnRows | OnLabels, mark: TriggerState, facts: LoopFacts) -> str:
    """The reason of the run that rows or labels call for; "" when there are too few."""
    new = _count(trigger, facts) - (mark.count or 0)
    if new < trigger.needed:
        return ""
    what = f"rows{f' of {trigger.source}' if trigger.source else ''}" if isinstance(trigger, OnRows) else "labels"
    return f"{new:,} new {what} since {format_utc(mark.since)} UTC"


def _count(trigger: Trigger, facts: LoopFacts) -> int:
    if isinstance(trigger, Cron):
        return 0
    return facts.rows.get(trigger.source, 0) if isinstance(trigger, OnRows) else facts.labels


def _withhold(state: RetrainState, due: list[_Due], spent: str, now: float) -> RetrainState:
    """Journal what the budget withholds, once: a schedule's run is over, rows and labels stay due."""
    for each in due:
        name = str(each.trigger)
        if state.triggers[name].withheld:
            continue
        state = state.record(RetrainEntry(at=now, event="withheld", trigger=name, reason=f"{each.reason}: {spent}"))
        if not isinstance(each.trigger, Cron):
            mark = state.triggers[name].model_copy(update={"withheld": True})
            state = state.model_copy(update={"triggers": {**state.triggers, name: mark}})
    return state


def _miss(state: RetrainState, trigger: Cron, reason: str, now: float) -> RetrainState:
    entry = RetrainEntry(at=now, event="missed", trigger=str(trigger), reason=reason)
    return _move(state, trigger, max(state.triggers[str(trigger)].since, now)).record(entry)


def _move(state: RetrainState, trigger: Cron, since: float) -> RetrainState:
    return state.model_copy(update={"triggers": {**state.triggers, str(trigger): TriggerState(since=since)}})


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def format_local(at: datetime) -> str:
    """A moment in its own zone, with the zone's short name."""
    return f"{at:%Y-%m-%d %H:%M %Z}"
