"""Events of skewed keys, rows to join them with, and views with every aggregate."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl

from features.definitions import Aggregate, Entity, FeatureView, Latest
from features.types import AS_OF, INSTANT

HOUR_US = 3_600_000_000
OPS = ("count", "sum", "mean", "std", "min", "max", "distinct")


def view(*keys: str, **changes: object) -> FeatureView:
    window = timedelta(hours=30)
    declared = {
        "name": "_".join(keys),
        "entity": Entity(name="_".join(keys), keys=keys),
        "source": "events",
        "event_time": "at",
        "known_at": "known",
        "aggregates": tuple(Aggregate(column="x", op=op, window=window, name=f"{'_'.join(keys)}_{op}") for op in OPS),
        "latest": (
            Latest(column="c", name=f"{'_'.join(keys)}_c", kind="category"),
            Latest(column="at", name=f"{'_'.join(keys)}_at", kind="timestamp"),
        ),
    }
    return FeatureView(**{**declared, **changes})


VIEWS = (view("a"), view("a", "b", ttl=timedelta(hours=3)), view("b", ties="x", strict=True))


def events(rows: int) -> pl.DataFrame:
    """A year of events; four of five are of one key."""
    draw = np.random.default_rng(0)
    at = draw.integers(0, 365 * 24, rows) * HOUR_US
    return pl.DataFrame({
        "a": np.where(draw.random(rows) < 0.8, "hot", draw.integers(0, 50, rows).astype(str)),
        "b": draw.choice(["x", "y", "z"], rows),
        "at": pl.Series(at).cast(INSTANT),
        "known": pl.Series(at + draw.integers(0, 50, rows) * HOUR_US).cast(INSTANT),
        "x": draw.normal(size=rows),
        "c": draw.choice(["u", "v"], rows),
    })  # fmt: skip


def rows(count: int) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    request = events(count).select("a", "b", pl.col("known").alias(AS_OF)).with_row_index("id")
    return request.with_columns(
        pl.when(pl.Series(draw.random(count) < 0.9)).then(pl.col("a")).alias("a"),
        pl.when(pl.Series(draw.random(count) < 0.9)).then(pl.col(AS_OF)).alias(AS_OF),
    )
