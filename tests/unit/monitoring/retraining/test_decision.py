"""When a retraining starts: triggers, missed runs, budget, pauses, clocks that step."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.retraining.decision import (
    JobFacts,
    LoopFacts,
    RetrainEntry,
    RetrainState,
    budget_left,
    decide,
    suppression,
)
from monitoring.retraining.triggers import Cron, OnLabels, OnRows, RetrainPolicy, Trigger

HOUR_S, DAY_S = 3_600.0, 86_400.0
START = datetime(2026, 3, 20, 12, tzinfo=ZoneInfo("Europe/Paris")).timestamp()
"""A Friday, nine days before the clocks go forward."""
DAILY = "0 3 * * *"


def daily(missed: str = "catch_up") -> Cron:
    return Cron.model_validate({"expression": DAILY, "timezone": "Europe/Paris", "missed": missed})


class Loop:
    """A loop whose owner looks when the test says so; its jobs end when the test says so."""

    def __init__(self, *on: Trigger, **policy: float | None) -> None:
        self.policy = RetrainPolicy.model_validate({"on": on, **policy})
        self.state, self.facts, self.now = RetrainState(), LoopFacts(), START
        self.look()

    def look(self, after_s: float = 0.0, **facts: object) -> RetrainEntry | None:
        self.now += after_s
        self.facts = self.facts.model_copy(update=facts)
        self.state, entry = decide(self.policy, self.state, self.facts, self.now)
        if entry is not None:
            job = f"job-{len(self.runs)}"
            journal = tuple(e.model_copy(update={"job": job}) if e == entry else e for e in self.state.journal)
            self.state = self.state.model_copy(update={"journal": journal})
        return entry

    def end(self, minutes: float = 5.0, state: str = "succeeded") -> None:
        self.facts = self.facts.model_copy(update={"jobs": {self.runs[-1].job: JobFacts(state=state, minutes=minutes)}})

    @property
    def runs(self) -> list[RetrainEntry]:
        return [entry for entry in self.state.journal if entry.event == "run"]

    def events(self, event: str) -> list[RetrainEntry]:
        return [entry for entry in self.state.journal if entry.event == event]


def test_schedule_runs_at_its_time_and_once() -> None:
    loop = Loop(daily())
    assert loop.look(14 * HOUR_S) is None
    entry = loop.look(HOUR_S + 30)
    assert entry is not None
    assert (entry.trigger, entry.reason) == (
        "schedule 0 3 * * * Europe/Paris",
        "schedule 0 3 * * * Europe/Paris, due 2026-03-21 03:00 CET",
    )
    loop.end()
    assert loop.look(30) is None
    assert (loop.runs[0].outcome, loop.runs[0].minutes) == ("succeeded", 5.0)


@pytest.mark.parametrize(
    ("missed", "runs", "journaled"),
    [("catch_up", 1, []), ("skip", 0, ["3 runs not started in time"])],
)
def test_runs_missed_while_the_cluster_is_down_are_caught_up_once_or_skipped(
    missed: str, runs: int, journaled: list[str]
) -> None:
    loop = Loop(daily(missed))
    loop.look(3 * DAY_S)
    assert len(loop.runs) == runs
    assert [entry.reason for entry in loop.events("missed")] == journaled
    if runs:
        assert loop.runs[0].reason.endswith("due 2026-03-23 03:00 CET, catching up with 3 runs")
        loop.end()
    # Either way the next run is that of the next night.
    assert loop.look(14 * HOUR_S) is None
    assert loop.look(HOUR_S + 60) is not None


@pytest.mark.parametrize("missed", ["catch_up", "skip"])
def test_run_on_time_takes_place_although_earlier_ones_were_missed(missed: str) -> None:
    loop = Loop(daily(missed))
    entry = loop.look(2 * DAY_S + 15 * HOUR_S + 60)
    assert entry is not None
    assert entry.reason.endswith("catching up with 2 runs") == (missed == "catch_up")
    assert [each.reason for each in loop.events("missed")] == (
        ["2 runs not started in time"] if missed == "skip" else []
    )


@pytest.mark.parametrize("busy", ["run", "rollout"])
@pytest.mark.parametrize(("missed", "runs"), [("catch_up", 1), ("skip", 0)])
def test_run_that_waits_for_other_work_too_long_is_missed(busy: str, missed: str, runs: int) -> None:
    loop = Loop(daily(missed), OnLabels(labels=10))
    if busy == "run":
        assert loop.look(14 * HOUR_S, labels=10) is not None
    else:
        loop.look(14 * HOUR_S, rolling_out=True)
    before = len(loop.runs)
    assert loop.look(HOUR_S + 60) is None
    assert loop.look(HOUR_S) is None
    if busy == "run":
        loop.end()
    loop.look(60, rolling_out=False)
    assert len(loop.runs) - before == runs


def test_rows_and_labels_start_a_run_and_count_from_it() -> None:
    loop = Loop(OnRows(rows=100), OnLabels(labels=50))
    loop.look(rows={"": 1_000}, labels=7)
    loop.state = RetrainState()
    assert loop.look() is None
    assert loop.look(60, rows={"": 1_099}) is None
    entry = loop.look(60, rows={"": 1_100})
    assert entry is not None
    assert (entry.trigger, entry.reason) == ("100 new rows", "100 new rows since 2026-03-20 11:00 UTC")
    # The job itself lands rows; they are in what it trains on.
    assert loop.look(60, rows={"": 1_500}) is None
    loop.end()
    assert loop.look(60, labels=56) is None
    both = loop.look(60, rows={"": 1_600}, labels=57)
    assert both is not None
    assert both.trigger == "100 new rows, 50 new labels"


def test_table_that_shrinks_starts_no_run_and_is_counted_from_there() -> None:
    loop = Loop(OnRows(rows=100))
    loop.state = RetrainState()
    loop.look(rows={"": 1_000})
    assert loop.look(60, rows={"": 10}) is None
    assert loop.look(60, rows={"": 109}) is None
    assert loop.look(60, rows={"": 110}) is not None


def test_trigger_that_is_declared_later_begins_then() -> None:
    loop = Loop()
    loop.look(30 * DAY_S, rows={"": 10_000})
    loop.policy = RetrainPolicy(on=(daily(), OnRows(rows=100)))
    assert loop.look(60) is None
    assert loop.state.journal == ()


def test_budget_holds_over_all_triggers_and_says_what_it_withholds() -> None:
    loop = Loop(daily(), OnLabels(labels=10), max_runs=2, period_s=7 * DAY_S)
    assert loop.look(15 * HOUR_S + 60) is not None
    loop.end()
    assert loop.look(HOUR_S, labels=10) is not None
    loop.end()
    loop.look(60)
    assert suppression(loop.policy, loop.state, loop.now).startswith("the budget of 2 runs in 7 days is spent until")
    for labels in (20, 30, 40):
        assert loop.look(60, labels=labels) is None
    assert loop.look(23 * HOUR_S) is None
    withheld = loop.events("withheld")
    assert [entry.trigger for entry in withheld] == ["10 new labels", "schedule 0 3 * * * Europe/Paris"]
    assert "the budget of 2 runs in 7 days is spent until 2026-03-28 02:01 UTC" in withheld[0].reason
    # Labels wait for the budget, a night's run does not.
    loop.now = START + 7 * DAY_S + 15 * HOUR_S + 61
    loop.look()
    assert [entry.trigger for entry in loop.runs[2:]] == ["schedule 0 3 * * * Europe/Paris, 10 new labels"]


def test_budget_of_minutes_counts_a_job_in_progress() -> None:
    loop = Loop(OnLabels(labels=1), max_minutes=30)
    loop.look(60, labels=1)
    assert budget_left(loop.policy, loop.state, loop.now + 600).minutes == 20.0
    loop.end(minutes=31)
    assert loop.look(60, labels=2) is None
    assert budget_left(loop.policy, loop.state, loop.now).minutes == 0.0
    assert [entry.event for entry in loop.state.journal] == ["run", "withheld"]
    assert loop.look(7 * DAY_S) is not None


def test_job_that_was_not_submitted_spends_no_budget() -> None:
    loop = Loop(OnLabels(labels=1), max_runs=1)
    failed = RetrainEntry(at=loop.now, event="run", trigger="alarm", outcome="failed: ConnectionError")
    loop.state = loop.state.record(failed)
    assert budget_left(loop.policy, loop.state, loop.now).runs == 1
    assert loop.look(60, labels=1) is not None
    assert budget_left(loop.policy, loop.state, loop.now).runs == 0


def test_pause_holds_every_trigger_and_skips_schedules() -> None:
    loop = Loop(daily(), OnLabels(labels=10))
    entry = RetrainEntry(at=loop.now, event="pause", by="anna", reason="audit")
    loop.state = loop.state.model_copy(update={"paused": entry})
    assert suppression(loop.policy, loop.state, loop.now) == "paused by anna: audit"
    assert loop.look(2 * DAY_S, labels=10) is None
    assert [each.reason for each in loop.events("missed")] == ["2 runs while paused"]
    loop.state = loop.state.model_copy(update={"paused": None})
    resumed = loop.look(60)
    assert resumed is not None
    assert resumed.trigger == "10 new labels"


@pytest.mark.parametrize("back_s", [60.0, 3_000.0])
def test_clock_that_goes_back_a_little_repeats_no_run(back_s: float) -> None:
    loop = Loop(daily())
    assert loop.look(15 * HOUR_S + 60) is not None
    loop.end()
    assert loop.look(-back_s) is None
    assert loop.look(back_s) is None
    assert len(loop.runs) == 1


def test_clock_that_was_a_year_ahead_does_not_silence_the_schedule() -> None:
    loop = Loop(daily(), max_runs=3)
    assert loop.look(365 * DAY_S) is not None
    loop.end()
    assert loop.look(-365 * DAY_S) is None
    assert loop.look(15 * HOUR_S + 60) is not None


def test_journal_keeps_runs_longer_than_other_entries() -> None:
    state = RetrainState().record(RetrainEntry(at=START, event="run", job="first", outcome="succeeded"))
    for i in range(500):
        state = state.record(RetrainEntry(at=START + i, event="missed", trigger="x"))
    assert state.journal[0].job == "first"
    assert len(state.journal) == 201


@given(
    steps=st.lists(
        st.tuples(st.floats(-2 * HOUR_S, 3 * DAY_S), st.integers(0, 40), st.booleans(), st.booleans()), max_size=30
    ),
    most=st.integers(0, 3),
    missed=st.sampled_from(("catch_up", "skip")),
)
def test_no_history_breaks_the_budget_or_starts_two_runs_at_once(
    steps: list[tuple[float, int, bool, bool]], most: int, missed: str
) -> None:
    loop = Loop(daily(missed), OnLabels(labels=50), max_runs=most, period_s=2 * DAY_S)
    labels = 0
    for after_s, new, ends, rolling_out in steps:
        labels += new
        if ends and loop.runs:
            loop.end()
        in_progress = bool(loop.state.in_progress)
        entry = loop.look(after_s, labels=labels, rolling_out=rolling_out)
        assert not (entry and rolling_out)
        assert not (entry and in_progress and not ends)
        assert len(loop.state.in_progress) <= 1
        recent = [run for run in loop.runs if run.at > loop.now - 2 * DAY_S]
        assert entry is None or len(recent) <= most
    restored = RetrainState.model_validate_json(loop.state.model_dump_json())
    assert restored == loop.state
