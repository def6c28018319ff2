"""A small feature view of two keys, with aggregates over two windows and latest values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from features.definitions import Aggregate, Entity, FeatureView, Latest

EPOCH = datetime(2013, 3, 10, tzinfo=UTC)
WINDOWS = (timedelta(minutes=3), timedelta(minutes=10))

VIEW = FeatureView(
    name="view",
    entity=Entity(name="pair", keys=("a", "b")),
    source="events",
    event_time="happened",
    known_at="known",
    aggregates=tuple(
        Aggregate(column="x", op=op, window=window, name=f"{op}_{window.seconds}")
        for window in WINDOWS
        for op in ("count", "sum", "mean")
    ),
    latest=(Latest(column="x", name="last_x"), Latest(column="c", name="last_c", kind="category")),
    ttl=timedelta(minutes=20),
)
