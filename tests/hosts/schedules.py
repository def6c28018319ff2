"""Random schedules of faults, each from a seed. Pure.

A schedule has a lane of faults for the nodes of a cluster and one for its stores. Within a lane one fault follows
another; nothing promises to survive the loss of two nodes at once, of which each holds one of a model's two replicas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

LONGEST_S: Mapping[str, float] = {
    "kill": 30.0,
    "partition": 60.0,
    "freeze": 30.0,
    "clock-ahead": 60.0,
    "clock-behind": 60.0,
    "full-disk": 60.0,
    "stop": 60.0,
}
"""Seconds that each kind lasts at most. A killed host boots then, and a store that was stopped starts again."""
SHORTEST_S = 2.0
PAUSE_S = 20.0
"""Between two faults of a lane at most."""
_FAULT = re.compile(r"([\d.]+)s (\S+) (\S+) ([\d.]+)s")


class PlannedFault(NamedTuple):
    """A fault that begins ``at`` seconds after the schedule, or once the one before it in its lane is over."""

    at: float
    kind: str
    host: str
    duration: float

    def __str__(self) -> str:
        return f"{self.at:g}s {self.kind} {self.host} {self.duration:g}s"


class Schedule(NamedTuple):
    """Lanes of faults; a lane's are in the order of their times, and do not overlap."""

    lanes: tuple[tuple[PlannedFault, ...], ...]

    @property
    def seconds(self) -> float:
        """When the last fault is over, if none takes longer than planned."""
        return max((fault.at + fault.duration for lane in self.lanes for fault in lane), default=0.0)

    def __str__(self) -> str:
        return " | ".join(", ".join(map(str, lane)) for lane in self.lanes)

    @classmethod
    def parse(cls, line: str) -> Schedule:
        """Read what ``str`` wrote, so that a failing schedule can be played again, or a shorter one.

        Raises:
            ValueError: It is no schedule.
        """
        return cls(tuple(tuple(_parse(part) for part in lane.split(",") if part.strip()) for lane in line.split("|")))


def _parse(part: str) -> PlannedFault:
    match = _FAULT.fullmatch(part.strip())
    if match is None or match[2] not in LONGEST_S:
        raise ValueError(f"no fault: {part!r}")
    return PlannedFault(float(match[1]), match[2], match[3], float(match[4]))


def generate(seed: int, lanes: Sequence[Mapping[str, Sequence[str]]], seconds: float = 120.0) -> Schedule:
    """Draw a schedule.

    Args:
        seed: Equal seeds give equal schedules.
        lanes: For each lane the kinds of faults that each host may get.
        seconds: By when the last fault is over, if none takes longer than planned.
    """
    random = Random(seed)
    return Schedule(
        tuple(_lane(random, {host: kinds for host, kinds in lane.items() if kinds}, seconds) for lane in lanes)
    )


def _lane(random: Random, kinds: Mapping[str, Sequence[str]], seconds: float) -> tuple[PlannedFault, ...]:
    faults: list[PlannedFault] = []
    # Tenths of a second: the line shows all of it.
    at = round(random.uniform(0.0, PAUSE_S), 1)
    while kinds:
        host = random.choice(sorted(kinds))
        kind = random.choice(kinds[host])
        duration = round(random.uniform(SHORTEST_S, LONGEST_S[kind]), 1)
        if at + duration > seconds:
            break
        faults.append(PlannedFault(at, kind, host, duration))
        at = round(at + duration + random.uniform(1.0, PAUSE_S), 1)
    return tuple(faults)
