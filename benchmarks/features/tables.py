"""The tables of the benchmark: flights of 2013, and a generated one of any size; events and rows that ask for features.

As Parquet files, which all peers read: ``events/*.parquet`` and ``rows.parquet`` of a folder. A row asks for eight
features: mean and count of a column over windows, by ``Window``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from features.definitions import Aggregate, Entity, FeatureView
from features.types import AS_OF, INSTANT

CHUNK = 1_000_000
HOT_SHARE = 0.1
"""Share of the generated events that are of one key."""
_YEAR_US = 365 * 24 * 3600 * 1_000_000
_START_US = 1_672_531_200_000_000
_EVENTS_PER_KEY = 100


class Window(NamedTuple):
    """Mean and count of ``column`` over the last ``hours`` of what was known by ``known_at``, for an entity."""

    name: str
    keys: tuple[str, ...]
    column: str
    known_at: str
    hours: int


class JoinCase(NamedTuple):
    """A table and the requested features. ``events`` and ``rows`` are the numbers of rows."""

    name: str
    windows: tuple[Window, ...]
    events: int
    rows: int
    folder: Path

    @property
    def event_files(self) -> list[Path]:
        return sorted((self.folder / "events").glob("*.parquet"))

    @property
    def row_file(self) -> Path:
        return self.folder / "rows.parquet"

    @property
    def columns(self) -> list[str]:
        """The features, in order."""
        return [f"{window.name}_{op}" for window in self.windows for op in ("mean", "count")]


def views(case: JoinCase) -> tuple[FeatureView, ...]:
    """The windows as feature views of rayloop; windows of one entity and time make one view."""
    grouped: dict[tuple[tuple[str, ...], str], list[Window]] = {}
    for window in case.windows:
        grouped.setdefault((window.keys, window.known_at), []).append(window)
    return tuple(
        FeatureView(
            name=f"{'_'.join(keys)}_{known_at}",
            entity=Entity(name="_".join(keys), keys=keys),
            source="events",
            event_time=known_at,
            known_at=known_at,
            aggregates=tuple(_aggregate(w, op) for w in windows for op in ("mean", "count")),
        )
        for (keys, known_at), windows in grouped.items()
    )


def _aggregate(window: Window, op: str) -> Aggregate:
    return Aggregate(column=window.column, op=op, window=timedelta(hours=window.hours), name=f"{window.name}_{op}")  # type: ignore[arg-type]


FLIGHT_WINDOWS = (
    Window("origin", ("origin",), "dep_delay", "departed_at", 6),
    Window("carrier", ("carrier",), "dep_delay", "departed_at", 24),
    Window("dest", ("dest",), "arr_delay", "landed_at", 6),
    Window("tail", ("tailnum",), "arr_delay", "landed_at", 24),
)
GENERATED_WINDOWS = tuple(Window(f"h{h}", ("user",), "amount", "known", h) for h in (1, 24, 7 * 24, 30 * 24))


def flights(folder: Path) -> JoinCase:
    """All flights as events, and each as a row two hours before its scheduled departure."""
    from examples.flights.data import flights_frame

    frame = flights_frame()
    columns = ("origin", "carrier", "dest", "tailnum", "departed_at", "landed_at")
    events = frame.select(*columns, pl.col("dep_delay", "arr_delay").cast(pl.Float64))
    keys = ("origin", "carrier", "dest", "tailnum")
    rows = frame.select(*keys, (pl.col("scheduled_at") - timedelta(hours=2)).alias(AS_OF))
    (folder / "events").mkdir(parents=True)
    events.write_parquet(folder / "events" / "0.parquet")
    rows.drop_nulls().write_parquet(folder / "rows.parquet")
    return JoinCase("flights", FLIGHT_WINDOWS, events.height, rows.drop_nulls().height, folder)


def generated(folder: Path, events: int) -> JoinCase:
    """Generate ``events`` events of a year and a tenth as many rows.

    Each user has a hundred events, except one user with a tenth of all.
    """
    (folder / "events").mkdir(parents=True)
    users = events // _EVENTS_PER_KEY
    for i, size in enumerate(_sizes(events)):
        _chunk(size, users, i, events).write_parquet(folder / "events" / f"{i:04d}.parquet")
    draw = np.random.default_rng(events)
    count = events // 10
    columns = {"user": _users(draw, count, users), AS_OF: _START_US + draw.integers(0, _YEAR_US, count)}
    pl.DataFrame(columns).with_columns(pl.col(AS_OF).cast(INSTANT)).write_parquet(folder / "rows.parquet")
    return JoinCase(f"{events / 1e6:g} million events", GENERATED_WINDOWS, events, count, folder)


def _sizes(events: int) -> Iterator[int]:
    for start in range(0, events, CHUNK):
        yield min(CHUNK, events - start)


def _chunk(size: int, users: int, number: int, events: int) -> pl.DataFrame:
    """A range of time in event order, as a log is written; events are known up to an hour later."""
    draw = np.random.default_rng((events, number))
    stretch = _YEAR_US * size // events
    at = np.sort(_START_US + number * (_YEAR_US * CHUNK // events) + draw.integers(0, max(stretch, 1), size))
    known = at + draw.integers(0, 3_600_000_000, size)
    columns = {"user": _users(draw, size, users), "known": known, "amount": draw.gamma(2.0, 20.0, size)}
    return pl.DataFrame(columns).with_columns(pl.col("known").cast(INSTANT))


def _users(draw: np.random.Generator, size: int, users: int) -> pl.Series:
    numbers = np.where(draw.random(size) < HOT_SHARE, 0, draw.integers(0, users, size))
    return pl.Series(numbers).cast(pl.String).str.zfill(8)
