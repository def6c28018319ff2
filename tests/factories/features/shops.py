"""A view, a source and rows of shop visits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.sources.source import Source
from features.types import INSTANT

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2024, 1, 1, 13, tzinfo=UTC)
START = datetime(2024, 3, 9, tzinfo=UTC)


def spending_view(**changes: object) -> FeatureView:
    """Spending of a shop over two hours."""
    declared = {
        "name": "spending",
        "entity": Entity(name="shop", keys=("shop",)),
        "source": "visits",
        "event_time": "at",
        "known_at": "known",
        "aggregates": rolling("spent", timedelta(hours=2), "spent_2h"),
    }
    return FeatureView(**{**declared, **changes})


def visits_source(**changes: object) -> Source:
    """Visits with a key, two times, a required shop and a range; nothing to read."""
    declared = {
        "name": "visits",
        "key": ("id",),
        "columns": (*category("id", "shop"), *number("spent"), *timestamp("at", "known")),
        "event_time": "at",
        "known_at": "known",
        "required": ("shop",),
        "ranges": {"spent": (0, 100)},
        "read": lambda: None,
    }
    return Source(**{**declared, **changes})


VIEWS = (
    spending_view(known_at="at"),
    FeatureView(
        name="weather",
        entity=Entity(name="pair", keys=("shop", "city")),
        source="visits",
        event_time="at",
        known_at="known",
        latest=(Latest(column="spent", name="last_spent"), Latest(column="mood", name="mood", kind="category")),
        ttl=timedelta(hours=3),
    ),
)
FEATURES = FeatureSet(
    name="set",
    request=(*category("shop", "city"), *number("price"), *timestamp("when")),
    derived=(derive("hour", pl.col("when").dt.convert_time_zone("America/New_York").dt.hour(), "category"),),
    as_of=derive("as_of", pl.col("when") - timedelta(minutes=30), "timestamp"),
    views=VIEWS,
)


def visits(rows: int, seed: int) -> pl.DataFrame:
    """Events of two days from ``START``, in the order of time."""
    draw = np.random.default_rng(seed)
    at = [START + timedelta(seconds=int(s)) for s in np.sort(draw.integers(0, 48 * 3600, rows))]
    return pl.DataFrame({
        "shop": draw.choice(["a", "b", "c"], rows),
        "city": draw.choice(["x", "y"], rows),
        "spent": draw.normal(10, 100, rows),
        "mood": draw.choice(["good", "bad"], rows),
        "at": at,
        "known": [t + timedelta(seconds=int(s)) for t, s in zip(at, draw.integers(0, 4000, rows), strict=True)],
    }).with_columns(pl.col("at", "known").cast(INSTANT))  # fmt: skip


def requests(rows: int, seed: int) -> pl.DataFrame:
    """Requests of the second day, some with a key that is unknown or null."""
    draw = np.random.default_rng(seed)
    when = [START + timedelta(hours=25, seconds=int(s)) for s in draw.integers(0, 23 * 3600, rows)]
    return pl.DataFrame({
        "shop": [("a", "b", "c", "never seen", None)[i] for i in draw.integers(0, 5, rows)],
        "city": draw.choice(["x", "y"], rows),
        "price": draw.normal(size=rows),
        "when": when,
    }).with_columns(pl.col("when").cast(INSTANT))  # fmt: skip
