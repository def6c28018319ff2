"""Sabotaged evidence ends as invalid and blames no version: the benchmark with one seed."""

from __future__ import annotations

import pytest

from benchmarks.evidence.sabotage import outcome
from benchmarks.evidence.sabotage_kinds import KINDS
from benchmarks.evidence.simulated_log import TASKS, Plan, play

NOT_FOUND = [("three quarters of the labels 0", "classification")]
"""Kinds beyond what the checks promise (docs/evidence.md); the benchmark counts them."""
CASES = [case for name, kind in KINDS.items() for task in kind.tasks if (case := (name, task)) not in NOT_FOUND]


@pytest.mark.parametrize(("name", "task"), [("labels inverted", "classification"), ("labels times 60", "regression"),
                                            ("score columns swapped", "classification")])  # fmt: skip
def test_sabotage_at_half_of_the_traffic_is_named(name: str, task: str) -> None:
    assert outcome(KINDS[name], task, 0.5, seed=0) == "right check"


@pytest.mark.long
@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_sabotage_of_every_kind_is_named(name: str, task: str, share: float) -> None:
    assert outcome(KINDS[name], task, share, seed=1) == "right check"


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("drift", [False, True])
def test_sound_rollout_is_judged_by_quality(task: str, drift: bool) -> None:
    kinds = [play(Plan(TASKS[task], quality, 0.5, drift=drift), 3).kind for quality in ("worse", "better")]
    assert kinds == ["abort", "advance"]
