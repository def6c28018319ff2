"""The journal is read in the order in which it was written, whatever the clocks say."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RolloutError
from deployments.analysis.verdict import RolloutDecision
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.state_machine import apply_command, apply_decision, begin, journal_entry
from deployments.rollout_policy import RolloutPolicy
from tests.factories.deployments.memory_tables import MemoryTables

POLICY = RolloutPolicy(steps=(0.1, 1.0))
COMMANDS = st.sampled_from(["pause", "resume", "abort", "promote", "restart"])
STEPS_S = st.sampled_from([1.0, 60.0, 3600.0, -3600.0, -1.0, 0.0])


def forget_numbers(tables: MemoryTables) -> None:
    """Make all rows so far those of a release without numbers."""
    nulls = pa.nulls(1, pa.int64())
    tables.rows = [
        rows.set_column(rows.column_names.index("sequence"), rows.schema.field("sequence"), nulls)
        for rows in tables.rows
    ]


def record(
    journal: RolloutJournal, history: list[tuple[str, float]], now: float, state: Any = None
) -> tuple[Any, float]:
    """Record what a controller would, by a clock that steps; returns its last state and time."""
    if state is None:
        state = begin("r0", "m", "1", ("2", "3"), POLICY, now)
        journal.record(journal_entry(state, "start", now, {}), POLICY)
    for number, (command, step_s) in enumerate(history, start=1):
        now += step_s
        version = "2" if command == "promote" else ""
        if command == "restart" and state.active:
            continue
        if command == "restart":
            state = begin(f"{state.id}.{number}", "m", "1", ("2", "3"), POLICY, now)
            journal.record(journal_entry(state, "start", now, {}), POLICY)
            continue
        try:
            state, decision = apply_command(state, command, f"{command} {number}", now, version)
        except RolloutError:
            continue
        journal.record(decision, POLICY)
    return state, now


@given(st.lists(st.tuples(COMMANDS, STEPS_S), max_size=12))
def test_steps_of_the_clock_do_not_change_the_state_that_is_read(history: list[tuple[str, float]]) -> None:
    tables: Any = MemoryTables()
    state, _ = record(RolloutJournal("m", tables), history, 1e9)
    assert RolloutJournal("m", tables).last_state() == state


@given(st.lists(st.tuples(COMMANDS, STEPS_S), max_size=8))
def test_rows_without_numbers_come_first_by_their_time(history: list[tuple[str, float]]) -> None:
    tables: Any = MemoryTables()
    state, now = record(RolloutJournal("m", tables), [("pause", 1.0), ("resume", 1.0), ("pause", 60.0)], 1e9)
    forget_numbers(tables)
    state, _ = record(RolloutJournal("m", tables), history, now - 3600.0, state)
    again = RolloutJournal("m", tables)
    assert again.last_state() == state
    assert [entry.action for entry in again.decisions()][:4] == ["start", "pause", "resume", "pause"]


def test_number_after_a_failed_append_follows_what_the_table_has(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: Any = MemoryTables()
    journal = RolloutJournal("m", tables)
    append = tables.append

    def lose_the_answer(*args: object, **options: object) -> None:
        append(*args, **options)
        raise ConnectionError

    monkeypatch.setattr(tables, "append", lose_the_answer)
    with pytest.raises(ConnectionError):
        record(journal, [], 1e9)
    monkeypatch.setattr(tables, "append", append)
    record(journal, [("abort", 1.0)], 1e9)
    assert sorted(pa.concat_tables(tables.rows)["sequence"].to_pylist()) == [1, 2, 3]


def test_only_an_invalid_entry_is_of_a_format_that_the_release_before_cannot_read() -> None:
    tables: Any = MemoryTables()
    journal, state = RolloutJournal("m", tables), begin("r0", "m", "1", ("2",), POLICY, 1e9)
    journal.record(journal_entry(state, "start", 1e9, {}), POLICY)
    values = {"kind": "invalid", "versions": ("2",), "reason": "labels", "figures": {}, "check": "labels"}
    state, entry = apply_decision(
        state, RolloutDecision.model_validate(values | {"remark": "invalid: labels"}), 1e9 + 1
    )
    journal.record(entry, POLICY)
    assert [version for rows in tables.rows for version in rows["schema_version"].to_pylist()] == [2, 3]
    assert RolloutJournal("m", tables).last_state() == state
