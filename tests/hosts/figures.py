"""What tests on hosts measure: printed, and kept for ``make bench-cluster``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from benchmarks import results
from benchmarks.cluster.hosts import VARIABLE
from benchmarks.results import Target

Sign = Literal["≥", "≤", "<", "="]


def add_figure(
    work: str, unit: str, value: float, sign: Sign | None = None, limit: float = 0.0, note: str = ""
) -> None:
    """Add a figure, before it is asserted: a row that falls short stays in the table.

    Args:
        work: What was done.
        unit: Unit of the value.
        value: The value.
        sign: How it should compare with ``limit``; None: it has no target.
        limit: The target.
        note: Circumstances.
    """
    target = Target(of="value", sign=sign, limit=limit) if sign else None
    row = results.row(work, unit, value, target=target, note=note)
    print(f"{work}: {row.rayloop} {unit}{f', target {target}' if target else ''} {note}")
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as lines:
            lines.write(row.model_dump_json() + "\n")
