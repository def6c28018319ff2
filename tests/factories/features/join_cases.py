"""Hypothesis strategies of feature views, event histories and rows for the point-in-time join, edge cases first.

Everything happens within two hours around an hour that daylight saving repeats or skips, on a grid of minutes, so that
times tie often. Each time column is in its own zone and unit.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import polars as pl
from hypothesis import strategies as st

from features.definitions import Aggregate, Entity, FeatureView, Latest
from features.types import AS_OF

MINUTE_US = 60_000_000
CHANGES = (
    datetime(2013, 3, 10, 7, tzinfo=UTC),  # New York skips an hour
    datetime(2013, 11, 3, 6, tzinfo=UTC),  # New York repeats one
    datetime(2013, 10, 27, 1, tzinfo=UTC),  # Berlin repeats one
    datetime(1969, 12, 31, 23, tzinfo=UTC),  # the epoch passes
)
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kathmandu")
NUMBER_OPS = ("count", "sum", "mean", "std", "min", "max", "distinct")


class Case(NamedTuple):
    view: FeatureView
    events: pl.DataFrame
    rows: pl.DataFrame


KEYS = ("p", "q", "pq", "", None)
NUMBERS = (
    *(0.1, 0.2, 0.3, 1.0, -0.0, 0.0, -2.5, 2.0**-17, 3 * 2.0**-17, 1e6 / 3, -1e6 / 7, 2.0**35, -(2.0**35)),
    *(None, float("nan"), float("inf"), float("-inf")),
)
TEXTS = ("u", "v", "", None)
MINUTES = (*range(-60, 90), None)
LAGS = (0, 0, 0, *range(-3, 40), None)
SEQUENCE = (0, 1, 2, None)
COPIES = (1, 1, 1, 2, 3)
_EVENT = (KEYS, KEYS, MINUTES, LAGS, NUMBERS, TEXTS, SEQUENCE, COPIES)
_ROW = (KEYS, KEYS, MINUTES)


def _of(choices: tuple[tuple, ...]) -> st.SearchStrategy[list]:
    """One of each of the choices, by a single number: drawing is what most of the time goes to."""

    def choose(number: int) -> list:
        cells = []
        for choice in choices:
            number, place = divmod(number, len(choice))
            cells.append(choice[place])
        return cells

    return st.integers(0, math.prod(map(len, choices)) - 1).map(choose)


_history = st.tuples(st.lists(_of(_EVENT), max_size=12), st.lists(_of(_ROW), max_size=6))
_window = st.sampled_from([timedelta(microseconds=1), timedelta(minutes=1), timedelta(minutes=7), timedelta(hours=9)])


def _aggregates(column: str, ops: tuple[str, ...], kind: str) -> st.SearchStrategy[list[Aggregate]]:
    def build_aggregates(resolution: float, choices: list[tuple[str, timedelta]]) -> list[Aggregate]:
        return [
            Aggregate(
                column=column, op=op, window=window, name=f"{column}_{op}_{window}", kind=kind, resolution=resolution
            )
            for op, window in choices
        ]  # fmt: skip

    choices = st.lists(st.tuples(st.sampled_from(ops), _window), max_size=5, unique=True)
    return st.builds(build_aggregates, st.sampled_from([2.0**-16, 0.01, 0.25]), choices)


@st.composite
def views(draw: st.DrawFn) -> FeatureView:
    latest = (
        Latest(column="x", name="last_x"),
        Latest(column="c", name="last_c", kind="category"),
        Latest(column="happened", name="last_happened", kind="timestamp"),
    )
    aggregates = draw(_aggregates("x", NUMBER_OPS, "number")) + draw(
        _aggregates("c", ("count", "distinct"), "category")
    )
    known = draw(st.booleans())
    return FeatureView(
        name="view",
        entity=Entity(name="entity", keys=draw(st.sampled_from([("a",), ("a", "b"), ("b", "a")]))),
        source="events",
        event_time="happened",
        known_at="known" if known else "",
        delay=timedelta(0) if known else draw(st.sampled_from([timedelta(0), timedelta(minutes=5)])),
        aggregates=tuple(aggregates),
        latest=latest if not aggregates or draw(st.booleans()) else (),
        ttl=draw(st.sampled_from([None, timedelta(minutes=1), timedelta(minutes=20)])),
        strict=draw(st.booleans()),
        ties=draw(st.sampled_from(["", "sequence", "revised"])),
    )


def _times(minutes: list[int | None], around: datetime, zone: str, unit: str) -> pl.Series:
    start = int(around.timestamp()) * 1_000_000
    instants = pl.Series([None if m is None else start + m * MINUTE_US for m in minutes], dtype=pl.Int64)
    return instants.cast(pl.Datetime("us", "UTC")).cast(pl.Datetime(unit, "UTC")).dt.convert_time_zone(zone)


@st.composite
def cases(draw: st.DrawFn, histories: int) -> Case:
    """A view over ``histories`` histories that share no key: as many independent cases in one."""
    around = draw(st.sampled_from(CHANGES))
    zones = draw(st.lists(st.sampled_from(ZONES), min_size=4, max_size=4))
    units = draw(st.lists(st.sampled_from(["us", "us", "ms", "ns"]), min_size=4, max_size=4))
    examples = draw(st.lists(_history, min_size=histories, max_size=histories))
    cells = [_isolate(i, event) for i, (events, _) in enumerate(examples) for event in events for _ in range(event[-1])]
    known = [None if None in cell[2:4] else cell[2] + cell[3] for cell in cells]
    events = pl.DataFrame({
        "a": pl.Series([cell[0] for cell in cells], dtype=pl.String),
        "b": pl.Series([cell[1] for cell in cells], dtype=pl.String),
        "happened": _times([cell[2] for cell in cells], around, zones[0], units[0]),
        "known": _times(known, around, zones[1], units[1]),
        "x": pl.Series([cell[4] for cell in cells], dtype=pl.Float64),
        "c": pl.Series([cell[5] for cell in cells], dtype=pl.String),
        "sequence": pl.Series([cell[6] for cell in cells], dtype=pl.Int64),
        "revised": _times([cell[6] for cell in cells], around, zones[2], units[2]),
    })  # fmt: skip
    requests = [_isolate(i, row) for i, (_, rows) in enumerate(examples) for row in rows]
    rows = pl.DataFrame({
        "a": pl.Series([row[0] for row in requests], dtype=pl.String),
        "b": pl.Series([row[1] for row in requests], dtype=pl.String),
        AS_OF: _times([row[2] for row in requests], around, zones[3], units[3]),
    })  # fmt: skip
    return Case(draw(views()), events, rows)


def since(view: FeatureView) -> pl.Expr:
    """From when each event counts, microseconds since the epoch; null for one that never does."""
    happened = pl.col("happened").dt.epoch("us")
    known = pl.col("known").dt.epoch("us") if view.known_at else happened + view.delay_us
    return pl.when(happened > known).then(happened).otherwise(known)


def _isolate(number: int, cells: list) -> list:
    return [None if cells[0] is None else f"{number}{cells[0]}", *cells[1:]]
