"""What every peer's program shares: it reads a plan and writes its result. No package of rayloop is imported."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Score = tuple[dict[str, float], bool]
"""How far each column is, 1 at its default threshold, and whether any column is beyond its threshold."""


def table(path: str) -> pd.DataFrame:
    """A frame of benchmarks/monitoring/streams.py."""
    data = np.load(path)
    numbers, codes = data["numbers"], data["codes"]
    columns: dict[str, Any] = {f"n{i}": numbers[:, i] for i in range(numbers.shape[1])}
    names = np.array([*(f"v{i}" for i in range(codes.max(initial=0) + 1)), None], dtype=object)
    return pd.DataFrame(columns | {f"s{i}": names[codes[:, i]] for i in range(codes.shape[1])})


def main(works: dict[str, Callable[[dict[str, Any]], Any]]) -> None:
    """``program.py WORK plan.json result.json``."""
    work, plan, result = sys.argv[1:]
    with open(plan) as source:
        content = works[work](json.load(source))
    with open(result, "w") as target:
        json.dump(content, target)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
