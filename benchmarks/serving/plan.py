"""The plan and the report of a load. Standard library only, so that the load generator starts fast and stays small."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from typing import NamedTuple


class LoadPlan(NamedTuple):
    """``rate`` requests per second make an open load, 0 a closed one. The warm-up does not count.

    ``header`` names a response header by whose values responses are counted and timed.
    """

    port: int
    requests: list[bytes]
    connections: int
    warm_up_s: float
    seconds: float
    rate: float = 0.0
    seed: int = 0
    header: str = ""

    def to_json(self) -> str:
        encoded = [base64.b64encode(request).decode() for request in self.requests]
        return json.dumps(self._replace(requests=encoded)._asdict())  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        plan = cls(**json.loads(text))
        return plan._replace(requests=[base64.b64decode(request) for request in plan.requests])


class Report(NamedTuple):
    """``answered`` and the latencies are those of responses (HTTP 200) in the measured time; ``total`` counts all.

        ``failures`` counts the others by cause: a status, a lost connection, no response. ``late_ms`` is the 99th
    percentile of how late the load generator itself sends a request: large when the machine is too busy.
        ``by_header`` maps each value of the plan's header to its count and the time of the last one (CLOCK_MONOTONIC,
    seconds).
    """

    answered: int
    per_second: float
    total: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float
    late_ms: float
    by_header: dict[str, tuple[int, float]]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process of ``rate`` per second in [0, seconds)."""
    chance = random.Random(seed)
    times, now = [], chance.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += chance.expovariate(rate)
    return times


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``ordered`` do not exceed; 0 if ``ordered`` is empty."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
