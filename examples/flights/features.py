"""What is known about a flight two hours before its scheduled departure."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from examples.flights.data import read_flights, read_weather
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Aggregate, Entity, FeatureSet, FeatureView, Latest
from features.sources.source import Examples, Source

LEAD = timedelta(hours=2)
LATE_MINUTES = 15
_LOCAL = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")

flights = Source(
    name="flights",
    key=("flight_id",),
    columns=(
        *category("flight_id", "carrier", "origin", "dest", "tailnum"),
        *number("distance", "dep_delay", "arr_delay"),
        *timestamp("scheduled_at", "departed_at", "landed_at", "recorded_at"),
    ),
    event_time="scheduled_at",
    known_at="recorded_at",
    required=("carrier", "origin", "dest"),
    ranges={"distance": (1, 10_000), "dep_delay": (-120, 2_880), "arr_delay": (-240, 2_880)},
    read=read_flights,
)

_WEATHER = ("dewp", "humid", "wind_east", "wind_north", "wind_speed", "wind_gust", "precip", "visib")

weather = Source(
    name="weather",
    key=("origin", "observed_at"),
    columns=(*category("origin"), *number(*_WEATHER), *timestamp("observed_at", "published_at")),
    event_time="observed_at",
    known_at="published_at",
    # The strongest gust ever measured near the ground was 253 mph; 1,048 is a typo.
    ranges={"wind_speed": (0, 253), "wind_gust": (0, 253), "humid": (0, 100.5), "visib": (0, 20)},
    read=read_weather,
)


def _delays(name: str, keys: tuple[str, ...], when: str, hours: tuple[int, ...]) -> FeatureView:
    """Rolling delays of an entity; a delay is known when the plane has actually left or landed."""
    column = {"departed_at": "dep_delay", "landed_at": "arr_delay"}[when]
    aggregates = [a for h in hours for a in rolling(column, timedelta(hours=h), f"{name}_{h}h")]
    return FeatureView(
        name=name,
        entity=Entity(name="_".join(keys), keys=keys),
        source="flights",
        event_time=when,
        known_at=when,
        aggregates=tuple(aggregates),
    )


_DAY, _WEEK = 24, 7 * 24

features = FeatureSet(
    name="flights",
    request=(*category("carrier", "origin", "dest", "tailnum"), *number("distance"), *timestamp("scheduled_at")),
    as_of=derive("as_of", pl.col("scheduled_at") - LEAD, "timestamp"),
    derived=(
        derive("hour", _LOCAL.dt.hour(), "category"),
        derive("weekday", _LOCAL.dt.weekday(), "category"),
        derive("minute_of_day", _LOCAL.dt.hour().cast(pl.Int32) * 60 + _LOCAL.dt.minute()),
    ),
    views=(
        FeatureView(
            name="weather",
            entity=Entity(name="origin", keys=("origin",)),
            source="weather",
            event_time="observed_at",
            known_at="published_at",
            latest=tuple(Latest(column=c, name=c) for c in _WEATHER),
            ttl=timedelta(hours=6),
        ),
        _delays("origin_departures", ("origin",), "departed_at", (2, 6)),
        _delays("carrier_origin_departures", ("carrier", "origin"), "departed_at", (6,)),
        _delays("carrier_departures", ("carrier",), "departed_at", (_DAY,)),
        _delays("carrier_arrivals", ("carrier",), "landed_at", (_DAY,)),
        _delays("dest_arrivals", ("dest",), "landed_at", (6,)),
        _delays("tail_departures", ("tailnum",), "departed_at", (_DAY,)),
        _delays("tail_arrivals", ("tailnum",), "landed_at", (_DAY,)),
        _delays("origin_arrivals", ("origin",), "landed_at", (6,)),
        _delays("route_arrivals", ("origin", "dest"), "landed_at", (_WEEK,)),
        FeatureView(
            name="origin_schedule",
            entity=Entity(name="origin", keys=("origin",)),
            source="flights",
            event_time="scheduled_at",
            known_at="scheduled_at",
            aggregates=(
                Aggregate(column="distance", op="count", window=timedelta(hours=2), name="origin_scheduled_2h_count"),
            ),
        ),
    ),
    features=(),
)

examples = Examples(
    source="flights",
    id="flight_id",
    label=pl.col("arr_delay") > LATE_MINUTES,
    label_known_at="landed_at",
)
