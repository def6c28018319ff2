"""Seeded streams of windows: ordinary days vary among themselves, and on demand one column moves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.definitions import Column
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile

DAY_S = 86_400.0
COLUMNS = (
    Column(name="x", kind="number"),
    Column(name="score", kind="number"),
    Column(name="c", kind="category"),
)


def rows(rng: np.random.Generator, count: int, day_sd: float = 0.2, shift: float = 0.0) -> pa.Table:
    """A day: each column has its own effect of the day with standard deviation ``day_sd``."""
    effect = rng.normal(0, day_sd, 3)
    x = rng.normal(effect[0] + shift, 1, count)
    score = 1 / (1 + np.exp(-rng.normal(effect[1] + shift - 1, 1, count)))
    odds = np.exp(np.array([1.0, 0.5, 0.0]) + effect[2] * np.array([1, -1, 0]))
    category = rng.choice(["a", "b", "c"], count, p=odds / odds.sum())
    return pa.table({"x": x, "score": score, "c": category})


def profile(table: pa.Table) -> Profile:
    summary = Profile.empty(COLUMNS)
    summary.update(table)
    return summary


def windows(seed: int, days: int, count: int, first: int = 0, **kind: float) -> dict[float, Profile]:
    rng = np.random.default_rng(seed)
    return {(first + i) * DAY_S: profile(rows(rng, count, **kind)) for i in range(days)}


def reference(seed: int = 0, days: int = 100, count: int = 300, **kind: float) -> ReferenceProfile:
    return ReferenceProfile.build(windows(seed, days, count, **kind), DAY_S)
