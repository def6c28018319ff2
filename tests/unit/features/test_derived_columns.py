"""Features derived from joined ones: offline, online and by hand they have the same bits."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from cluster.errors import ProjectError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.derived_columns import joined_features, request_features
from features.offline.point_in_time import join
from features.online.feature_reader import FeatureReader
from features.online.materialize import materialize, push
from features.types import AS_OF, INSTANT
from tests.factories.effort import examples
from tests.factories.errors import raises
from tests.factories.features.join_cases import Case, cases
from tests.factories.features.oracle import bits, expected
from tests.factories.features.stores import MemoryStore
from tests.factories.features.version_cases import VersionedCase, naive_join, versioned_cases

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
WINDOWS = (*rolling("x", timedelta(minutes=7), "short", ["sum"]), *rolling("x", timedelta(hours=9), "long", ["sum"]))
NEWEST = Latest(column="happened", name="newest", kind="timestamp")
DAYS = derive("days_since", (pl.col(AS_OF) - pl.col("newest")).dt.total_days(fractional=True))
RATIO = derive("ratio", pl.col("short_sum") / pl.col("long_sum"))
DERIVED = (
    DAYS,
    RATIO,
    derive("both", pl.col("ratio").fill_null(-1.0) * pl.col("days_since")),
    derive("is_new", pl.col("newest").is_null()),
    derive("scaled", pl.col("short_sum") / 3),
)


def feature_set(view: FeatureView, **changes: object) -> FeatureSet:
    declared = {
        "name": "set",
        "request": (*category("a", "b"), *timestamp("when")),
        "as_of": derive(AS_OF, pl.col("when"), "timestamp"),
        "views": (view.model_copy(update={"aggregates": WINDOWS, "latest": (NEWEST,)}),),
        "derived": DERIVED,
    }
    return FeatureSet(**{**declared, **changes})


def requests(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("a", "b", when=pl.col(AS_OF).dt.convert_time_zone("UTC").cast(INSTANT))


def by_hand(joined: dict[str, object], at: datetime | None) -> dict[str, object]:
    """The derived features of one row; times are whole minutes."""
    newest, short, long = joined["newest"], joined["short_sum"], joined["long_sum"]
    age = None if newest is None or at is None else (at - newest) // timedelta(microseconds=1)
    days = None if age is None else float(age) * (1.0 / 86_400_000_000)
    ratio = None if short is None or not long else short / long
    ratio = ratio if ratio is not None and math.isfinite(ratio) else None
    both = None if days is None else (-1.0 if ratio is None else ratio) * days
    scaled = None if short is None else short * (1.0 / 3)
    return {
        "days_since": days, "ratio": ratio, "both": both, "is_new": float(newest is None), "scaled": scaled,
    }  # fmt: skip


def offline(features: FeatureSet, request: pl.DataFrame, joined: pl.DataFrame) -> list[dict[str, object]]:
    rows = pl.concat([request_features(features, request), joined], how="horizontal")
    return bits(joined_features(features, rows).select(d.name for d in features.derived).to_dicts())


def online(features: FeatureSet, store: MemoryStore, request: pl.DataFrame, at_once: int) -> list[dict[str, object]]:
    reader = FeatureReader(features, store)
    parts = [pl.DataFrame(reader.read(part.to_arrow(), 0)) for part in request.iter_slices(at_once)]
    return bits(pl.concat(parts).select(d.name for d in features.derived).to_dicts())


@given(cases(2))
@settings(max_examples=examples(200), suppress_health_check=list(HealthCheck))
def test_derived_features_are_those_computed_by_hand_offline_and_online(case: Case) -> None:
    features, request = feature_set(case.view), requests(case.rows)
    (view,) = features.views
    joined = expected(view, case.events, case.rows)
    times = request.get_column("when").to_list()
    values = bits([by_hand(row, at) for row, at in zip(joined, times, strict=True)])
    assert offline(features, request, join(view, case.events, case.rows)) == values
    store = MemoryStore()
    materialize(store, view, case.events, 1 << 60)
    for at_once in (1, 3, 1000) if request.height else ():
        assert online(features, store, request, at_once) == values


@given(versioned_cases(2))
@settings(max_examples=examples(100), suppress_health_check=list(HealthCheck))
def test_derived_features_use_what_was_known_of_corrected_rows(case: VersionedCase) -> None:
    features, request = feature_set(case.view), requests(case.rows)
    known = case._replace(view=features.views[0])
    assert offline(features, request, join(*known)) == offline(features, request, naive_join(known))


def shop(**changes: object) -> FeatureView:
    declared = {
        "name": "shop", "entity": Entity(name="shop", keys=("a",)), "source": "visits", "event_time": "happened",
        "known_at": "known", "aggregates": WINDOWS, "latest": (NEWEST,),
    }  # fmt: skip
    return FeatureView(**{**declared, **changes})


def event(minutes_ago: int, x: float, known_ago: int | None = None) -> pl.DataFrame:
    times = [NOON - timedelta(minutes=m) for m in (minutes_ago, minutes_ago if known_ago is None else known_ago)]
    frame = pl.DataFrame({"a": ["s"], "x": [x], "happened": times[:1], "known": times[1:]})
    return frame.with_columns(pl.col("happened", "known").cast(INSTANT))


def read(store: MemoryStore, **changes: object) -> dict[str, object]:
    request = pl.DataFrame({"a": ["s"], "b": ["t"], "when": [NOON]}).with_columns(pl.col("when").cast(INSTANT))
    features = feature_set(shop(), views=(shop(),), **changes)
    return pl.DataFrame(FeatureReader(features, store).read(request.to_arrow(), 0)).row(0, named=True)


def test_entity_without_events_has_no_age_and_no_ratio() -> None:
    row = read(MemoryStore())
    assert (row["newest"], row["days_since"], row["ratio"], row["is_new"]) == (None, None, None, 1.0)


def test_empty_window_has_no_ratio_and_late_older_event_leaves_age() -> None:
    store = MemoryStore()
    push(store, shop(), event(720, 5.0))
    row = read(store)
    assert (row["newest"], row["days_since"], row["ratio"]) == (NOON - timedelta(hours=12), 0.5, None)
    push(store, shop(), event(1440, 1.0, known_ago=5))
    # The late event counts from when it became known; what happened last is still the other one.
    assert (read(store)["days_since"], read(store)["ratio"]) == (0.5, 1.0)


def test_time_beyond_the_exact_ones_is_rounded_down_and_stays_in_its_year() -> None:
    latest = Latest(column="until", name="until", kind="timestamp")
    view, store = shop(latest=(latest,), aggregates=()), MemoryStore()
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    events = event(5, 1.0).with_columns(pl.lit(last).cast(INSTANT).alias("until"))
    materialize(store, view, events, 1 << 60)
    request = pl.DataFrame({"a": ["s"]})
    features = FeatureSet(name="set", request=category("a"), views=(view,))
    now_us = round(NOON.timestamp() * 1e6)
    online_until = pl.DataFrame(FeatureReader(features, store).read(request.to_arrow(), now_us))["until"].item()
    assert online_until == last.replace(microsecond=999_936)
    assert join(view, events, request.with_columns(pl.lit(NOON).alias(AS_OF)))["until"].item() == online_until


@pytest.mark.parametrize(
    ("derived", "code", "fields"),
    [
        ((derive("twice", pl.col("x") * 2),), "unknown_derived_input", {"feature": "twice", "columns": ["x"]}),
        # A derived feature sees those before it.
        ((derive("twice", pl.col("ratio") * 2), RATIO), "unknown_derived_input", {"columns": ["ratio"]}),
        ((RATIO, derive("short_sum", pl.col("ratio"))), "duplicate_names", {"names": ["short_sum"]}),
        ((derive(AS_OF, pl.col("newest"), "timestamp"),), "duplicate_names", {"names": [AS_OF]}),
        ((derive("age", pl.col(AS_OF) - pl.col("newest")),), "derived_kind", {"feature": "age", "kind": "number"}),
        ((derive("age", pl.col("newest") + pl.col("a")),), "derived_kind", {"feature": "age"}),
        ((derive("day", pl.col("short_sum"), "timestamp"),), "derived_kind", {"kind": "timestamp"}),
    ],
)
def test_derived_feature_that_cannot_be_computed_is_refused(derived: tuple, code: str, fields: dict) -> None:
    with raises(ProjectError, f"project.{code}", **fields):
        feature_set(shop(), views=(shop(),), derived=derived)


def test_as_of_from_a_joined_feature_is_refused() -> None:
    with raises(ProjectError, "project.unknown_request_column", columns=["newest"]):
        feature_set(shop(), as_of=derive(AS_OF, pl.col("newest"), "timestamp"))


def test_constant_divisor_gives_one_row_the_bits_that_it_has_among_others() -> None:
    third, other = derive("third", pl.col("x") / 3.7), derive("other", pl.col("x").log1p() / 3.7)
    # Polars evaluates the second of these sets, compiled functions the first.
    compiled, features = (FeatureSet(name="set", request=number("x"), derived=d) for d in ((third,), (third, other)))
    rows = pl.DataFrame({"x": [n / 7 for n in range(1, 300)]})
    values = request_features(features, rows, 0).get_column("third")
    assert (values != rows.get_column("x").to_numpy() / 3.7).any()
    for each in (compiled, features):
        reader = FeatureReader(each, MemoryStore())
        single = [reader.read(row.to_arrow(), 0).column("third")[0].as_py() for row in rows.iter_slices(1)]
        assert single == values.to_list()
