"""Work that yields: at most a fraction of the time in which there is nothing else to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference import time_budget
from deployments.inference.time_budget import READ_EVERY_S, IdleClock, TimeBudget
from tests.factories.until import until


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 3.0)), max_size=50), st.floats(0.01, 2.0))
def test_time_budget_is_overdrawn_by_at_most_the_last_piece_of_work(
    work: list[tuple[float, float]], rate: float
) -> None:
    now, spent, largest = 0.0, 0.0, 0.0
    budget = TimeBudget(lambda: now)
    for pause_s, work_s in work:
        now += pause_s
        if budget.has_left(rate):
            budget.spend(work_s)
            spent, largest = spent + work_s, max(largest, work_s)
    assert spent <= rate * now + largest + 1e-9


def test_time_budget_saves_a_second_at_most() -> None:
    now = 0.0
    budget = TimeBudget(lambda: now)
    assert not budget.has_left(0.5)
    now = 1000.0
    assert budget.has_left(0.5)
    budget.spend(0.5)
    assert not budget.has_left(0.5)


def test_idle_clock_counts_sleep_and_not_work() -> None:
    idle = IdleClock()
    idle()
    time.sleep(2 * READ_EVERY_S)
    before = idle()
    time.sleep(4 * READ_EVERY_S)
    slept = idle() - before
    started, ran = time.monotonic(), time.thread_time()
    while time.thread_time() < ran + 4 * READ_EVERY_S:
        pass
    worked = idle() - before - slept
    assert slept >= 3 * READ_EVERY_S
    # Whatever else runs on the machine: to wait for a processor is no idleness.
    assert worked <= 0.25 * (time.monotonic() - started)


def test_budget_of_a_thread_that_is_busy_is_not_earned() -> None:
    budget = TimeBudget(IdleClock())
    until(lambda: budget.has_left(1.0), "an idle thread earns", 10.0)
    while budget.has_left(1.0):
        budget.spend(READ_EVERY_S / 10)
    budget.spend(READ_EVERY_S)
    ran = time.thread_time()
    while time.thread_time() < ran + 12 * READ_EVERY_S:
        pass
    assert not budget.has_left(1.0)


def test_idle_clock_without_schedstat_counts_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot read its times where it has none under /proc."""
    monkeypatch.setattr(time_budget, "SCHEDSTAT", Path("/nonexistent"))
    idle = IdleClock()
    first = idle()
    time.sleep(2 * READ_EVERY_S)
    assert idle() - first >= READ_EVERY_S
    started, before, ran = time.monotonic(), idle(), time.thread_time()
    while time.thread_time() < ran + 4 * READ_EVERY_S:
        pass
    worked = time.thread_time() - ran
    assert idle() - before <= time.monotonic() - started - worked + READ_EVERY_S + 0.01
