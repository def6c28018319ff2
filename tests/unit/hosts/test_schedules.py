"""Schedules of faults are what their seed says, survivable, and readable."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hosts.schedules import LONGEST_S, SHORTEST_S, PlannedFault, Schedule, generate

NODES = {"head": ("kill", "freeze"), "worker1": ("kill", "partition", "clock-ahead"), "worker2": ()}
STORES = {"postgres": ("stop", "freeze"), "redis": ("freeze", "partition")}
SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_schedule_has_faults_that_its_hosts_may_get_within_its_time(seed: int) -> None:
    schedule = generate(seed, (NODES, STORES), seconds=150.0)
    for kinds, lane in zip((NODES, STORES), schedule.lanes, strict=True):
        assert all(fault.kind in kinds[fault.host] for fault in lane)
        assert all(SHORTEST_S <= fault.duration <= LONGEST_S[fault.kind] for fault in lane)
        assert all(fault.at >= 0.0 and fault.at + fault.duration <= 150.0 for fault in lane)


@given(SEEDS)
def test_lane_has_one_fault_at_a_time(seed: int) -> None:
    for lane in generate(seed, (NODES, STORES)).lanes:
        assert all(before.at + before.duration < after.at for before, after in pairwise(lane))
        assert lane


@given(SEEDS)
def test_schedule_is_the_same_by_its_seed_and_by_its_line(seed: int) -> None:
    schedule = generate(seed, (NODES, STORES))
    assert generate(seed, (NODES, STORES)) == schedule
    assert Schedule.parse(str(schedule)) == schedule


def test_seeds_differ_and_reach_every_fault() -> None:
    schedules = [generate(seed, (NODES, STORES)) for seed in range(50)]
    assert len(set(schedules)) == 50
    reached = {(fault.host, fault.kind) for schedule in schedules for lane in schedule.lanes for fault in lane}
    assert reached == {(host, kind) for lane in (NODES, STORES) for host, kinds in lane.items() for kind in kinds}


def test_line_of_a_schedule_is_short() -> None:
    first, second = PlannedFault(3.0, "kill", "worker1", 20.5), PlannedFault(40.0, "freeze", "head", 12.0)
    line = "3s kill worker1 20.5s, 40s freeze head 12s | 5s stop postgres 60s"
    schedule = Schedule(((first, second), (PlannedFault(5.0, "stop", "postgres", 60.0),)))
    assert (str(schedule), schedule.seconds) == (line, 65.0)
    assert Schedule(((),)).seconds == 0.0


@pytest.mark.parametrize("line", ["3s kill worker1", "3s melt worker1 20s", "kill worker1", "3 kill worker1 20"])
def test_line_that_is_no_schedule_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no fault"):
        Schedule.parse(line)


def test_host_without_faults_gets_none() -> None:
    assert generate(1, ({"worker1": ()},)) == Schedule(((),))
