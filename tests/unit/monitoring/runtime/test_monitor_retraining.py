"""The monitor retrains by triggers: journaled, within one budget with alarms, across crashes, pauses and failures."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from cluster.values import Alarm
from monitoring.drift_policy import DriftPolicy
from monitoring.retraining.decision import JobFacts, LoopFacts, RetrainEntry
from monitoring.retraining.triggers import Cron, OnLabels, RetrainPolicy
from monitoring.runtime.facts_reader import ThreadFactsReader
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import MonitorStore
from tests.factories.monitoring import streams
from tests.factories.until import until

DAY_S = streams.DAY_S
NOON = 1_773_489_600.0
"""2026-03-14, 12:00 UTC."""
NIGHTLY = Cron(expression="0 3 * * *")
POLICY = DriftPolicy(span=1, min_rows=100, cooldown_s=0, release=1, budget=10)
REFERENCE = streams.reference(0).to_bytes()


class Loop:
    """Facts, a clock and submitted jobs, as the test sets them."""

    def __init__(self, store: MonitorStore) -> None:
        self.store, self.now = store, NOON
        self.facts = LoopFacts()
        self.jobs: list[str] = []
        self.error = self.refusal = ""
        self.reading = False

    def start(self, jobs: tuple[str, ...]) -> None:
        self.reading = True

    def poll(self) -> LoopFacts | str | None:
        reading, self.reading = self.reading, False
        return (self.error or self.facts) if reading else None

    def submit(self, entry: RetrainEntry) -> str:
        if self.refusal:
            raise ConnectionError(self.refusal)
        job = f"job at {entry.at:.0f}"
        self.jobs += [job] if job not in self.jobs else []
        return job

    def act(self, alarm: Alarm) -> str:
        self.jobs.append("alarm")
        return f"alarm {alarm.window:.0f}"

    def monitor(self) -> DriftMonitor:
        return DriftMonitor(
            "m", self.store, {"retrain": self.act}, reader=self, submit=self.submit, clock=lambda: self.now
        )

    def look(self, monitor: DriftMonitor, after_s: float = 0.0) -> None:
        self.now += after_s
        for _ in range(2):
            # The first call reads, the second one acts on what was read.
            monitor.status()


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(MonitorStore(tmp_path / "monitor"))


def scheduled(loop: Loop, *on: Cron | OnLabels, **policy: int) -> DriftMonitor:
    monitor = loop.monitor()
    monitor.schedule(RetrainPolicy(on=on, check_s=1e-9, **policy))
    loop.look(monitor)
    return monitor


def counted(monitor: DriftMonitor) -> tuple[int, ...]:
    """Retrainings that were missed, that the budget withheld, and that failed."""
    counters = monitor.status()["counters"]
    return tuple(counters.get(event, 0) for event in ("missed", "withheld", "failed"))


def send_drift(monitor: DriftMonitor, first: int) -> None:
    windows = streams.windows(first, 3, 300, first=first, shift=2.0)
    for start, profile in windows.items():
        monitor.observe("1", start, profile.to_bytes())


def test_trigger_submits_a_job_and_follows_it(loop: Loop) -> None:
    monitor = scheduled(loop, NIGHTLY)
    loop.look(monitor, 15 * 3_600 + 10)
    (entry,) = monitor.schedule_status().journal
    assert (entry.job, entry.outcome) == (loop.jobs[0], "")
    loop.facts = LoopFacts(jobs={entry.job: JobFacts(state="failed: the gate", minutes=3.0)})
    loop.look(monitor, 60)
    status = monitor.schedule_status()
    assert status.last is not None
    assert (status.last.outcome, status.last.minutes) == ("failed: the gate", 3.0)
    (trigger,) = status.triggers
    assert (trigger.next, trigger.last) == ("2026-03-16 03:00 UTC", status.last)
    assert counted(monitor) == (0, 0, 1)


def test_triggers_continue_after_a_kill_and_catch_up(loop: Loop) -> None:
    scheduled(loop, NIGHTLY)
    loop.now += 3 * DAY_S
    after = loop.monitor()
    loop.look(after)
    assert [entry.event for entry in after.schedule_status().journal] == ["run"]
    assert counted(after) == (0, 0, 0)
    assert "catching up with 3 runs" in after.schedule_status().journal[0].reason


def test_missed_run_counts_once(loop: Loop) -> None:
    scheduled(loop, NIGHTLY.model_copy(update={"missed": "skip"}))
    loop.now += 3 * DAY_S
    after = loop.monitor()
    loop.look(after)
    loop.look(after, 60)
    assert counted(after) == (1, 0, 0)
    assert loop.jobs == []


def test_run_that_was_about_to_start_at_a_kill_is_submitted_once(loop: Loop) -> None:
    scheduled(loop, NIGHTLY)
    submitted = list[str]()

    def die(entry: RetrainEntry) -> str:
        submitted.append(loop.submit(entry))
        raise KeyboardInterrupt

    dying = DriftMonitor("m", loop.store, reader=loop, submit=die, clock=lambda: loop.now)
    with pytest.raises(KeyboardInterrupt):
        loop.look(dying, 15 * 3_600 + 10)
    after = loop.monitor()
    assert [entry.job for entry in after.schedule_status().journal] == submitted == loop.jobs


def test_failed_submission_is_journaled_and_the_next_run_takes_place(loop: Loop) -> None:
    monitor = scheduled(loop, NIGHTLY)
    loop.refusal = "no cluster"
    loop.look(monitor, 15 * 3_600 + 10)
    (entry,) = monitor.schedule_status().journal
    assert (entry.job, entry.outcome) == ("", "failed: ConnectionError: no cluster")
    assert monitor.status()["last_error"] == entry.outcome
    loop.refusal = ""
    loop.look(monitor, DAY_S)
    assert len(loop.jobs) == 1


def test_facts_that_cannot_be_read_are_counted_and_delay_a_run(loop: Loop) -> None:
    monitor = scheduled(loop, NIGHTLY)
    loop.error = "OSError: away"
    loop.look(monitor, 15 * 3_600 + 10)
    assert loop.jobs == []
    assert monitor.status()["last_error"].endswith("OSError: away")
    loop.error = ""
    loop.look(monitor, 60)
    assert len(loop.jobs) == 1


def test_alarms_and_triggers_share_the_budget(loop: Loop) -> None:
    monitor = loop.monitor()
    monitor.watch("1", REFERENCE, POLICY)
    monitor.schedule(RetrainPolicy(on=(OnLabels(labels=10),), max_runs=1, check_s=1e-9))
    loop.look(monitor)
    send_drift(monitor, 100)
    loop.facts = LoopFacts(labels=50, jobs={"alarm 8640000": JobFacts(state="succeeded", minutes=1.0)})
    loop.look(monitor, 60)
    loop.facts = LoopFacts(labels=90)
    loop.look(monitor, 60)
    events = [(entry.event, entry.trigger) for entry in monitor.schedule_status().journal]
    assert events == [("run", "alarm"), ("withheld", "10 new labels")]
    assert loop.jobs == ["alarm"]
    assert counted(monitor) == (0, 1, 0)


def test_budget_and_pause_hold_an_alarm(loop: Loop) -> None:
    monitor = loop.monitor()
    monitor.watch("1", REFERENCE, POLICY)
    monitor.pause_retraining("anna", "audit")
    send_drift(monitor, 100)
    (entry,) = monitor.journal()
    assert (entry.action, entry.outcome) == ("held", "paused by anna: audit")
    assert loop.jobs == []


def test_pause_survives_a_kill_and_names_who_paused_and_resumed(loop: Loop) -> None:
    monitor = scheduled(loop, NIGHTLY)
    monitor.pause_retraining("anna", "audit")
    loop.now += 2 * DAY_S
    after = loop.monitor()
    status = after.resume_retraining("ben", "audit is over")
    assert [(entry.event, entry.by, entry.reason) for entry in status.journal] == [
        ("pause", "anna", "audit"),
        ("missed", "", "2 runs while paused"),
        ("resume", "ben", "audit is over"),
    ]
    assert status.paused is None
    assert counted(after) == (0, 0, 0)
    loop.look(after)
    assert loop.jobs == []


def test_monitor_without_triggers_reads_no_facts(loop: Loop) -> None:
    loop.look(loop.monitor())
    assert not loop.reading


def test_facts_are_read_in_a_thread() -> None:
    go = Event()

    def read(jobs: tuple[str, ...]) -> LoopFacts:
        go.wait(10)
        if not jobs:
            raise OSError("away")
        return LoopFacts(labels=len(jobs))

    reader = ThreadFactsReader(read)
    assert reader.poll() is None
    reader.start(("a", "b"))
    assert reader.poll() is None
    reader.start(())
    go.set()
    assert until(reader.poll, "the facts are read", 10.0) == LoopFacts(labels=2)
    reader.start(())
    assert until(reader.poll, "the reading has failed", 10.0) == "OSError: away"
