"""Start the retraining that is due, journaled before and after; pause and resume. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from cluster.values import Frozen
from monitoring.detection.alarm_actions import AlarmEntry
from monitoring.retraining.decision import (
    ALARM,
    LoopFacts,
    RetrainEntry,
    RetrainState,
    budget_left,
    decide,
    format_local,
    new_since,
    restart_counts,
    skip_schedules,
    suppression,
)
from monitoring.retraining.retrain_gain import RetrainGain, WindowGain, summarize_gains
from monitoring.retraining.triggers import Cron, RetrainPolicy, Trigger


class FactsReader(Protocol):
    """Reads facts elsewhere, one reading at a time (monitoring/runtime/facts_reader.py)."""

    def start(self, jobs: tuple[str, ...]) -> None:
        """Start to read, with the state of these jobs."""

    def poll(self) -> LoopFacts | str | None:
        """The facts, or why there are none; None while they are read, or when no reading was started."""


FAILED = "failed"
"""How the outcome of a run that failed begins."""

Submit = Callable[[RetrainEntry], str]
"""Submits the job of a run and returns its id. After a crash it may be called again for the same entry."""


class TriggerStatus(Frozen):
    """A trigger as people see it."""

    trigger: str
    next: str = ""
    """When a schedule comes next, in its own zone."""
    progress: str = ""
    """Rows or labels so far, of those that are needed, once they are counted."""
    last: RetrainEntry | None = None
    """Its last run."""
    missed: RetrainEntry | None = None
    """What it last missed, or what the budget withheld."""


class ScheduleStatus(Frozen):
    """Retraining of one model, as people see it."""

    model: str
    triggers: tuple[TriggerStatus, ...]
    last: RetrainEntry | None
    """The last run of any trigger, alarms included."""
    paused: RetrainEntry | None
    runs_left: int | None
    minutes_left: float | None
    """What is left of the budget; None without a limit."""
    period_days: float
    journal: tuple[RetrainEntry, ...]
    """Oldest first."""
    gains: tuple[RetrainGain, ...] = ()
    """What retrained versions gained over those that they replaced, in the order of their promotions."""


class RetrainScheduler:
    """Triggers and budget of one model's retraining.

    Attributes:
        policy: What the project declares.
        state: What is remembered.
    """

    def __init__(
        self,
        reader: FactsReader | None,
        submit: Submit | None,
        save: Callable[[], None],
        count: Callable[..., None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start without triggers.

        Args:
            reader: Reads the facts; None: nothing is ever due.
            submit: Submits the job of a run; None only without a reader.
            save: Writes all state to disk.
            count: Counts an event, with an error where there is one.
            clock: Seconds since the epoch.
        """
        self.policy = RetrainPolicy()
        self.state = RetrainState()
        self._reader, self._submit = reader, submit
        self._save, self._count, self._clock = save, count, clock
        self._facts: LoopFacts | None = None
        self._next_look = 0.0

    def follow(self, policy: RetrainPolicy) -> None:
        """Follow a project's declarations from now on."""
        if policy != self.policy:
            self.policy = policy
            self._next_look = 0.0
            self._save()

    def resume_after_crash(self) -> None:
        """Submit what the journal says is about to start: a job of the same name is not submitted twice."""
        for entry in self.state.in_progress if self._submit else ():
            if not entry.job and entry.trigger != ALARM:
                self._start(entry)

    def tick(self) -> None:
        """Take in facts, start what is due, and read the next facts when it is time."""
        reader = self._reader
        if reader is None or not (self.policy.on or self.state.in_progress):
            return
        facts = reader.poll()
        if isinstance(facts, str):
            self._count("failures", f"facts for retraining were not read: {facts}")
        elif facts is not None:
            self._act(facts)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.policy.check_s
            reader.start(tuple(entry.job for entry in self.state.in_progress if entry.job))

    def suppression(self) -> str:
        """Why an alarm must not start a retraining now; "" when it may."""
        return suppression(self.policy, self.state, self._clock())

    def record_alarm(self, entry: AlarmEntry) -> None:
        """Record the retraining that an alarm started: it counts against the budget, and the other triggers wait."""
        outcome = f"{FAILED}: {entry.outcome}" if entry.failed else ""
        job = "" if entry.failed else entry.outcome
        if job and any(run.job == job for run in self.state.journal):
            return
        now = self._clock()
        run = RetrainEntry(at=now, event="run", trigger=ALARM, reason=entry.alarm.reason, job=job, outcome=outcome)
        state = restart_counts(self.policy, self.state, now) if job else self.state
        self.state = state.record(run)

    def pause(self, by: str, reason: str) -> None:
        """Start no retraining, whatever the trigger, until ``resume``."""
        entry = RetrainEntry(at=self._clock(), event="pause", by=by, reason=reason)
        self.state = self.state.model_copy(update={"paused": entry}).record(entry)
        self._save()

    def resume(self, by: str, reason: str) -> None:
        """Start retraining again when it is due. Runs of schedules during the pause are skipped."""
        entry = RetrainEntry(at=self._clock(), event="resume", by=by, reason=reason)
        # The schedules' runs until now are journaled as missed before the pause ends.
        state = skip_schedules(self.policy, self.state, self._clock())
        self.state = state.model_copy(update={"paused": None}).record(entry)
        self._save()

    def status(self, model: str, gains: Iterable[WindowGain] = ()) -> ScheduleStatus:
        """Triggers, runs, budget and gains, for people."""
        now, journal = self._clock(), self.state.journal
        left = budget_left(self.policy, self.state, now)
        runs = [entry for entry in journal if entry.event == "run"]
        return ScheduleStatus(
            model=model,
            triggers=tuple(self._trigger_status(trigger, now) for trigger in self.policy.on),
            last=runs[-1] if runs else None,
            paused=self.state.paused,
            runs_left=left.runs,
            minutes_left=left.minutes,
            period_days=self.policy.period_s / 86_400.0,
            journal=journal,
            gains=summarize_gains(gains),
        )

    def _trigger_status(self, trigger: Trigger, now: float) -> TriggerStatus:
        name, journal = str(trigger), self.state.journal
        runs = [e for e in journal if e.event == "run" and name in e.trigger.split(", ")]
        missed = [e for e in journal if e.event in ("missed", "withheld") and e.trigger == name]
        coming, progress = "", ""
        if isinstance(trigger, Cron):
            run = trigger.next_run(now)
            coming = format_local(run) if run is not None else "never"
        else:
            new = new_since(trigger, self.state, self._facts)
            progress = f"{new:,} of {trigger.needed:,}" if new is not None else f"{trigger.needed:,}, not counted yet"
        return TriggerStatus(
            trigger=name,
            next=coming,
            progress=progress,
            last=runs[-1] if runs else None,
            missed=missed[-1] if missed else None,
        )

    def _act(self, facts: LoopFacts) -> None:
        self._facts = facts
        before = self.state
        self.state, entry = decide(self.policy, before, facts, self._clock())
        if self.state != before:
            for event in _setbacks(before, self.state):
                self._count(event)
            self._save()
        if entry is not None:
            self._start(entry)

    def _start(self, entry: RetrainEntry) -> None:
        """Submit the job of a run. The journal is on disk before and after."""
        assert self._submit is not None
        self._count("actions")
        try:
            started = entry.model_copy(update={"job": self._submit(entry)})
        except Exception as error:
            # The cluster may refuse anything; monitoring continues, and the journal has the error.
            started = entry.model_copy(update={"outcome": f"{FAILED}: {type(error).__name__}: {error}"})
            self._count("failures", started.outcome)
        journal = tuple(started if each == entry else each for each in self.state.journal)
        self.state = self.state.model_copy(update={"journal": journal})
        self._save()


def _setbacks(before: RetrainState, after: RetrainState) -> Iterator[str]:
    """Counters of what went wrong between two states. What a pause skips is what somebody wanted."""
    ended = {entry.at: entry for entry in before.journal if entry.in_progress}
    for entry in after.journal:
        if entry.event in ("missed", "withheld"):
            if entry not in before.journal and before.paused is None:
                yield entry.event
        elif entry.at in ended and entry.outcome.startswith(FAILED):
            yield "failed"
