"""Small, nasty feature views and histories: ties, late and keyless rows, empty sides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import strategies as st

from features.definitions import Aggregate, Entity, FeatureView, Latest
from features.types import INSTANT

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

_key = st.one_of(st.none(), st.sampled_from(["p", "q"]))
_minute = st.integers(0, 40)
_event = st.tuples(
    _key,
    _key,
    _minute,
    st.integers(0, 6),
    st.one_of(st.none(), st.just(float("nan")), st.floats(-1e6, 1e6), st.sampled_from([0.1, 0.2, 0.3])),
    st.one_of(st.none(), st.sampled_from(["u", "v"])),
)
_row = st.tuples(_key, _key, st.one_of(st.none(), _minute))


def _at(minute: int | None) -> datetime | None:
    return None if minute is None else EPOCH + timedelta(minutes=minute)


def _events(cells: list[tuple]) -> pl.DataFrame:
    rows = [(a, b, _at(minute), _at(minute + lag), x, c) for a, b, minute, lag, x, c in cells]
    schema = {"a": pl.String, "b": pl.String, "happened": INSTANT, "known": INSTANT, "x": pl.Float64, "c": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _rows(cells: list[tuple]) -> pl.DataFrame:
    schema = {"a": pl.String, "b": pl.String, "as_of": INSTANT}
    return pl.DataFrame([(a, b, _at(minute)) for a, b, minute in cells], schema=schema, orient="row")


histories = st.lists(_event, max_size=25).map(_events)
label_rows = st.lists(_row, max_size=12).map(_rows)
