"""A view's events: invalid ones are refused, others normalized, and each counts from its known-at time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from cluster.errors import DataError, ProjectError
from features.builders import derive
from features.definitions import Aggregate, Derived, Entity, FeatureView, Latest
from features.events.event_history import EVENT_TIME, KNOWN_AT, TIE_BREAKER, build_history
from features.offline import point_in_time
from features.types import AS_OF
from tests.factories.errors import raises

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


def request_rows(*times: datetime) -> pl.DataFrame:
    return pl.DataFrame({"k": ["a"] * len(times), AS_OF: list(times)})


@pytest.mark.parametrize(
    ("columns", "code", "column"),
    [
        ({"at": [NOON.replace(tzinfo=None)]}, "timestamp_without_zone", "at"),
        ({"at": [NOON.date()]}, "not_a_timestamp", "at"),
        ({"k": [1.0]}, "float_key", "k"),
        ({"x": ["1.0"]}, "not_a_number", "x"),
    ],
)
def test_build_history_of_ambiguous_column_is_refused(columns: dict, code: str, column: str) -> None:
    with raises(DataError, f"data.{code}", column=column):
        build_history(view(), events(**columns))


def test_join_of_rows_without_time_zone_is_refused() -> None:
    with raises(DataError, "data.timestamp_without_zone", column=AS_OF):
        point_in_time.join(view(), events(), request_rows(NOON.replace(tzinfo=None)))


def test_window_of_a_day_is_24_hours_when_clocks_change() -> None:
    zone = ZoneInfo("America/New_York")
    before = datetime(2013, 3, 9, 12, tzinfo=zone)
    rows = request_rows(datetime(2013, 3, 10, 12, tzinfo=zone), datetime(2013, 3, 10, 13, tzinfo=zone))
    features = point_in_time.join(view(), events(at=[before]), rows)
    assert features["sum"].to_list() == [1.0, 0.0], "by the clock 24 hours later is 23 hours later"


def test_join_rounds_nanoseconds_so_that_no_event_is_known_early() -> None:
    ticks = pl.Series([1_000_500], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    rows = pl.DataFrame(
        {"k": ["a"] * 3, AS_OF: pl.Series([1_000_400, 1_000_999, 1_001_000]).cast(pl.Datetime("ns", "UTC"))}
    )
    assert point_in_time.join(view(), events(at=ticks), rows)["sum"].to_list() == [0.0, 0.0, 1.0]


def test_event_counts_from_the_later_of_known_at_and_event_time() -> None:
    hour = timedelta(hours=1)
    late, early = events(known=[NOON + hour]), events(known=[NOON - hour])
    rows = request_rows(NOON - hour, NOON, NOON + hour)
    assert point_in_time.join(view(known_at="known"), late, rows)["sum"].to_list() == [0.0, 0.0, 1.0]
    assert point_in_time.join(view(known_at="known"), early, rows)["sum"].to_list() == [0.0, 1.0, 1.0]
    assert point_in_time.join(view(delay=hour), events(), rows)["sum"].to_list() == [0.0, 0.0, 1.0]
    assert point_in_time.join(view(strict=True), events(), rows)["sum"].to_list() == [0.0, 0.0, 1.0]


def test_build_history_leaves_out_events_without_key_or_time() -> None:
    rows = pl.concat([events(), events(k=[None]), events(at=[None]).cast({"at": pl.Datetime("us", "UTC")})])
    known = build_history(view(), rows)
    assert known.height == 1
    assert known.get_column(KNOWN_AT).to_list() == known.get_column(EVENT_TIME).to_list()


def test_derived_columns_can_be_aggregated() -> None:
    double: Derived = derive("twice", pl.col("x") * 2)
    aggregate = Aggregate(column="twice", op="max", window=timedelta(hours=1), name="largest")
    declared = view(derived=(double,), aggregates=(aggregate,))
    assert declared.source_columns == ("k", "at", "x")
    assert point_in_time.join(declared, events(), request_rows(NOON))["largest"].to_list() == [2.0]


def test_latest_of_equal_times_is_decided_by_ties() -> None:
    rows = pl.DataFrame({"k": ["a"] * 3, "at": [NOON] * 3, "x": [1.0, 2.0, 3.0], "version": [2, 3, None]})
    latest = {"aggregates": (), "latest": (Latest(column="x", name="x"),)}
    assert point_in_time.join(view(**latest, ties="version"), rows, request_rows(NOON))["x"].to_list() == [2.0]
    assert point_in_time.join(view(**latest), rows, request_rows(NOON))["x"].to_list() == [3.0]


def test_join_with_sum_beyond_64_bits_is_refused() -> None:
    many = pl.concat([events(x=[2.0**35])] * 5000)
    with raises(DataError, "data.sum_exceeds_resolution", column="x"):
        point_in_time.join(view(), many, request_rows(NOON))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"known_at": "known", "delay": timedelta(1)}, "view_known_at_and_delay"),
        ({"delay": -timedelta(1)}, "view_times"),
        ({"ttl": timedelta(0)}, "view_times"),
        ({"entity": Entity(name="e", keys=("k",)), "aggregates": ()}, "view_without_features"),
    ],
)
def test_feature_view_that_contradicts_itself_is_refused(changes: dict, code: str) -> None:
    with raises(ProjectError, f"project.{code}", view="view"):
        view(**changes)


def test_feature_view_with_several_resolutions_of_a_column_is_refused() -> None:
    hour = timedelta(hours=1)
    two = tuple(Aggregate(column="x", op="sum", window=hour, name=f"s{r}", resolution=r) for r in (0.5, 0.25))
    with raises(ProjectError, "project.view_resolutions", column="x"):
        view(aggregates=two)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"window": timedelta(0)}, "aggregate_window"),
        ({"resolution": 0.0}, "aggregate_resolution"),
        ({"resolution": -1.0}, "aggregate_resolution"),
        ({"resolution": float("inf")}, "aggregate_resolution"),
        ({"resolution": float("nan")}, "aggregate_resolution"),
        ({"kind": "category", "op": "mean"}, "aggregate_kind"),
    ],
)
def test_aggregate_that_cannot_be_computed_is_refused(changes: dict, code: str) -> None:
    with raises(ProjectError, f"project.{code}", aggregate="a"):
        Aggregate(**{"column": "x", "op": "sum", "window": timedelta(hours=1), "name": "a", **changes})


def test_content_hash_ignores_owner_and_description() -> None:
    assert view(owner="me", description="text").content_hash == view().content_hash
    assert view(strict=True).content_hash != view().content_hash


def test_ties_by_time_are_microseconds_rounded_up_and_missing_is_smallest() -> None:
    ticks = pl.Series([1_000_001, 1_000_000, None], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    rows = pl.DataFrame({"k": ["a"] * 3, "at": [NOON] * 3, "x": [1.0] * 3, "revised": ticks})
    history = build_history(view(ties="revised"), rows)
    assert history.get_column(TIE_BREAKER).to_list() == [1001.0, 1000.0, float("-inf")]


def test_aggregate_rounds_values_to_its_resolution_half_to_even() -> None:
    aggregates = tuple(
        Aggregate(column=column, op="sum", window=timedelta(hours=1), name=column, **resolution)
        for column, resolution in (("x", {}), ("y", {"resolution": 0.5}))
    )
    half = 2.0**-17
    rows = pl.concat([events(x=[1.0 + half], y=[0.25]), events(x=[2.0 + 3.0 * half], y=[0.75])])
    features = point_in_time.join(view(aggregates=aggregates), rows, request_rows(NOON))
    assert features.rows() == [(3.0 + 4.0 * half, 1.0)]


def test_join_with_sum_of_63_bits_is_exact_and_with_a_larger_one_is_refused() -> None:
    # 2**63 - 1 = 3577 * 2578550750308017, below the largest value of 2**52 units.
    count, unit = 3577, (2**63 - 1) // 3577
    exact = (Aggregate(column="x", op="sum", window=timedelta(hours=1), name="sum", resolution=1.0),)
    many = pl.concat([events(x=[float(unit)])] * count)
    assert point_in_time.join(view(aggregates=exact), many, request_rows(NOON))["sum"].to_list() == [2.0**63]
    with raises(DataError, "data.sum_exceeds_resolution", column="x"):
        point_in_time.join(view(aggregates=exact), pl.concat([many, events(x=[1.0])]), request_rows(NOON))
