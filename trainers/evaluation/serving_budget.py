"""Limits of a version's serving cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from cluster.values import Check, Frozen
from trainers.evaluation import check_builders

MEBIBYTE = 1 << 20


class Budget(Frozen):
    """Limits of the exported model's latency and size. None is no limit.

    Latency is that of one thread on the machine that runs the gate.
    """

    max_us_1: float | None = Field(default=None, gt=0)
    """Microseconds for a call with one row."""
    max_us_1024: float | None = Field(default=None, gt=0)
    """Microseconds for a call with 1,024 rows."""
    max_mib: float | None = Field(default=None, gt=0)
    """MiB of the model's file."""


def check(budget: Budget, latency: Mapping[str, float], size: int) -> Iterator[Check]:
    """Check the limits that are set.

    Args:
        budget: The limits.
        latency: Microseconds, as trainers.scoring.latency_benchmark measures them.
        size: Bytes of the model's file.
    """
    for rows, limit in ((1, budget.max_us_1), (1024, budget.max_us_1024)):
        what = f"microseconds for {rows:,} row{'s' * (rows > 1)}"
        name, value = f"latency of {rows}", latency.get(f"onnxruntime_us_{rows}", latency.get(f"python_us_{rows}"))
        assert value is not None
        yield from check_builders.at_most(name, value, limit, what)
    yield from check_builders.at_most("size", size / MEBIBYTE, budget.max_mib, "MiB of the exported model")
