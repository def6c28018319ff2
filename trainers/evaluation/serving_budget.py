"""What a version may cost to serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from cluster.values import Check, Frozen
from trainers.evaluation import check_builders

MEBIBYTE = 1 << 20


class Budget(Frozen):
    """Limits of the exported model: microseconds of a call with one row, and with 1,024, on one thread of the machine that gates;
    MiB of its file. None is no limit."""

    max_us_1: float | None = Field(default=None, gt=0)
    max_us_1024: float | None = Field(default=None, gt=0)
    max_mib: float | None = Field(default=None, gt=0)


def judge(budget: Budget, latency: Mapping[str, float], size: int) -> Iterator[Check]:
    """``latency`` as trainers.scoring.latency_benchmark measures it; ``size`` in bytes."""
    for rows, limit in ((1, budget.max_us_1), (1024, budget.max_us_1024)):
        what = f"microseconds for {rows:,} row{'s' * (rows > 1)}"
        yield from check_builders.if_limited(f"latency of {rows}", latency[f"onnxruntime_us_{rows}"], limit, what)
    yield from check_builders.if_limited("size", size / MEBIBYTE, budget.max_mib, "MiB of the exported model")
