"""A view's events in one form: what is refused, what is normalised, and when an event begins to count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from cluster.errors import DataError, ProjectError
from features.builders import derive
from features.definitions import Aggregate, Derived, Entity, FeatureView, Latest
from features.events.event_history import EVENT_TIME, KNOWN_AT, build_history
from features.offline import point_in_time
from features.types import AS_OF

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def view(**changes: object) -> FeatureView:
    declared = {
        "name": "view",
        "entity": Entity(name="key", keys=("k",)),
        "source": "events",
        "event_time": "at",
        "aggregates": (Aggregate(column="x", op="sum", window=timedelta(hours=24), name="sum"),),
    }
    return FeatureView(**{**declared, **changes})


def events(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"k": ["a"], "at": [NOON], "x": [1.0], **columns})


def asked(*times: datetime) -> pl.DataFrame:
    return pl.DataFrame({"k": ["a"] * len(times), AS_OF: list(times)})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"at": [NOON.replace(tzinfo=None)]}, "no time zone"),
        ({"at": [NOON.date()]}, "should be a time"),
        ({"k": [1.0]}, "key 'k' is Float64"),
        ({"x": ["1.0"]}, "takes 'x' for a number"),
    ],
)
def test_what_cannot_be_read_one_way_is_refused(columns: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_history(view(), events(**columns))


def test_rows_without_a_zone_are_refused() -> None:
    with pytest.raises(DataError, match="no time zone"):
        point_in_time.join(view(), events(), asked(NOON.replace(tzinfo=None)))


def test_a_day_is_24_hours_when_the_clocks_change() -> None:
    zone = ZoneInfo("America/New_York")
    before = datetime(2013, 3, 9, 12, tzinfo=zone)
    rows = asked(datetime(2013, 3, 10, 12, tzinfo=zone), datetime(2013, 3, 10, 13, tzinfo=zone))
    found = point_in_time.join(view(), events(at=[before]), rows)
    assert found["sum"].to_list() == [1.0, 0.0], "by the clock 24 hours later is 23 hours later"


def test_nanoseconds_are_rounded_so_that_nothing_is_known_early() -> None:
    ticks = pl.Series([1_000_500], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    rows = pl.DataFrame(
        {"k": ["a"] * 3, AS_OF: pl.Series([1_000_400, 1_000_999, 1_001_000]).cast(pl.Datetime("ns", "UTC"))}
    )
    assert point_in_time.join(view(), events(at=ticks), rows)["sum"].to_list() == [0.0, 0.0, 1.0]


def test_an_event_counts_from_when_it_is_known_and_has_happened() -> None:
    hour = timedelta(hours=1)
    late, early = events(known=[NOON + hour]), events(known=[NOON - hour])
    rows = asked(NOON - hour, NOON, NOON + hour)
    assert point_in_time.join(view(known_at="known"), late, rows)["sum"].to_list() == [0.0, 0.0, 1.0]
    assert point_in_time.join(view(known_at="known"), early, rows)["sum"].to_list() == [0.0, 1.0, 1.0]
    assert point_in_time.join(view(delay=hour), events(), rows)["sum"].to_list() == [0.0, 0.0, 1.0]
    assert point_in_time.join(view(strict=True), events(), rows)["sum"].to_list() == [0.0, 0.0, 1.0]


def test_an_event_that_is_never_known_is_nobody_s() -> None:
    rows = pl.concat([events(), events(k=[None]), events(at=[None]).cast({"at": pl.Datetime("us", "UTC")})])
    known = build_history(view(), rows)
    assert known.height == 1
    assert known.get_column(KNOWN_AT).to_list() == known.get_column(EVENT_TIME).to_list()


def test_columns_are_derived_before_they_are_aggregated() -> None:
    double: Derived = derive("twice", pl.col("x") * 2)
    aggregate = Aggregate(column="twice", op="max", window=timedelta(hours=1), name="largest")
    declared = view(derived=(double,), aggregates=(aggregate,))
    assert declared.source_columns == ("k", "at", "x")
    assert point_in_time.join(declared, events(), asked(NOON))["largest"].to_list() == [2.0]


def test_ties_are_broken_by_the_declared_column() -> None:
    rows = pl.DataFrame({"k": ["a"] * 3, "at": [NOON] * 3, "x": [1.0, 2.0, 3.0], "version": [2, 3, None]})
    latest = {"aggregates": (), "latest": (Latest(column="x", name="x"),)}
    assert point_in_time.join(view(**latest, ties="version"), rows, asked(NOON))["x"].to_list() == [2.0]
    assert point_in_time.join(view(**latest), rows, asked(NOON))["x"].to_list() == [3.0]


def test_sums_that_may_leave_64_bits_are_refused() -> None:
    many = pl.concat([events(x=[2.0**35])] * 5000)
    with pytest.raises(DataError, match="64 bits"):
        point_in_time.join(view(), many, asked(NOON))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known_at": "known", "delay": timedelta(1)}, "both a known-at column and a delay"),
        ({"delay": -timedelta(1)}, "must not be negative"),
        ({"ttl": timedelta(0)}, "nor ttl nothing"),
        ({"entity": Entity(name="e", keys=("k",)), "aggregates": ()}, "no aggregates"),
    ],
)
def test_a_view_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        view(**changes)


def test_one_column_has_one_resolution() -> None:
    hour = timedelta(hours=1)
    two = tuple(Aggregate(column="x", op="sum", window=hour, name=f"s{r}", resolution=r) for r in (0.5, 0.25))
    with pytest.raises(ProjectError, match="several resolutions"):
        view(aggregates=two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": timedelta(0)}, "longer than nothing"),
        ({"resolution": 0.0}, "positive"),
        ({"kind": "category", "op": "mean"}, "is of numbers"),
    ],
)
def test_an_aggregate_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Aggregate(**{"column": "x", "op": "sum", "window": timedelta(hours=1), "name": "a", **changes})


def test_owner_and_description_are_no_part_of_the_hash() -> None:
    assert view(owner="me", description="text").content_hash == view().content_hash
    assert view(strict=True).content_hash != view().content_hash
