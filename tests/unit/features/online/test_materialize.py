"""Features read online as of a time equal the join's, bit for bit, for any history materialized in any order."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from unittest.mock import patch

import polars as pl
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from features.builders import category, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.events.event_history import KNOWN_AT, build_history
from features.offline import point_in_time
from features.online import materialize as materializing
from features.online import row_lookup, state_codec
from features.online.feature_reader import FeatureReader
from features.online.materialize import materialize, push
from features.types import AS_OF, INSTANT
from tests.factories.effort import examples
from tests.factories.features.join_cases import MINUTE_US, Case, cases, since, views
from tests.factories.features.stores import MemoryStore

END_US = 1 << 60
# value, category, sequence
VALUES = (
    (0.1, "u", 1),
    (0.2, "v", 2),
    (0.3, "u", 1),
    (-2.5, "", None),
    (None, None, 0),
    (float("inf"), "u", 2),
    (1e10, "w", 1),
)


def online(view: FeatureView, store: MemoryStore, rows: pl.DataFrame, at_once: int) -> pl.DataFrame:
    """The view's features of the rows, read ``at_once`` at a time."""
    as_of = pl.col(AS_OF).dt.convert_time_zone("UTC").cast(INSTANT)
    features = FeatureSet(
        name="set", request=(*category("a", "b"), *timestamp("when")), views=(view,),
        as_of={"name": AS_OF, "kind": "timestamp", "expression": pl.col("when").meta.serialize(format="json")},
    )  # fmt: skip
    reader = FeatureReader(features, store)
    request = rows.select("a", "b", as_of.alias("when"))
    parts = [pl.DataFrame(reader.read(part.to_arrow(), 0)) for part in request.iter_slices(at_once)]
    names = [column.name for column in view.columns]
    return pl.concat([part.select(names) for part in parts])


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Numbers as their bytes: 0.0 and -0.0 differ."""
    numbers = [c for c in frame.columns if frame.schema[c] == pl.Float64]
    return frame.with_columns(pl.col(numbers).reinterpret(signed=False)) if numbers else frame


def edges(case: Case) -> pl.DataFrame:
    """Rows of the entities of all events at times when something begins or ceases to count."""
    keys = list(case.view.entity.keys)
    known = build_history(case.view, case.events)
    shifts = {0, *(a.window_us for a in case.view.aggregates), case.view.ttl_us or 0}
    times = {at + shift + step for at in known.get_column(KNOWN_AT) for shift in shifts for step in (-1, 0, 1)}
    when = pl.DataFrame({AS_OF: sorted(times)}, schema={AS_OF: pl.Int64}).cast(INSTANT)
    missing = [pl.lit("p").alias(key) for key in ("a", "b") if key not in keys]
    return known.select(keys).unique(maintain_order=True).join(when, how="cross").with_columns(missing)


def assert_same(case: Case, store: MemoryStore) -> None:
    for rows, at_once in (
        (case.rows, 1),
        (case.rows, 1000),
        (edges(case), 1000),
        (edges(case).sample(fraction=0.02, seed=1), 1),
    ):
        if rows.height:
            expected = point_in_time.join(case.view, case.events, rows)
            assert bits(online(case.view, store, rows, at_once)).equals(bits(expected))


@st.composite
def crowded(draw: st.DrawFn) -> Case:
    """Many events of two entities on few minutes: late ones, ties and repeated values are the rule."""
    random, span = draw(st.randoms(use_true_random=True)), draw(st.sampled_from([3, 40, 40]))
    cells = [
        (random.choice("pq"), "r", at, at + random.choice((0, 0, 1, random.randrange(30))), *random.choice(VALUES))
        for at in (random.randrange(span) for _ in range(draw(st.integers(1, 60))))
    ]
    names = ("a", "b", "happened", "known", "x", "c", "sequence")
    events = pl.DataFrame(cells, schema=names, orient="row", strict=False).with_columns(
        (pl.col("happened", "known") * MINUTE_US).cast(INSTANT),
        pl.col("x").cast(pl.Float64),
        revised=pl.lit(None, INSTANT),
    )
    return Case(draw(views()), events, events.select("a", "b", pl.col("known").alias(AS_OF)).head(3))


histories = st.one_of(cases(1), crowded(), crowded(), crowded())


def arriving(case: Case, random: Random) -> pl.DataFrame:
    """The events in any order, those that count from the same time on in the order of the table.

    That order is the last resort of the rule for ties, so that it is part of what a producer has to keep.
    """
    places = list(range(case.events.height))
    random.shuffle(places)
    counts = case.events.select(since(case.view)).to_series().to_list()
    equals: dict[int | None, list[int]] = {}
    for place, row in enumerate(places):
        equals.setdefault(counts[row], []).append(place)
    for of in equals.values():
        for place, row in zip(of, sorted(places[place] for place in of), strict=True):
            places[place] = row
    return case.events[places]


def displaced(arrived: tuple[Case, pl.DataFrame]) -> bool:
    """Whether an event of each of several times comes after one that counts from later on, of the same entity."""
    case, events = arrived
    known = build_history(case.view, events)
    late = known.filter(pl.col(KNOWN_AT) < pl.col(KNOWN_AT).cum_max().over(case.view.entity.keys))
    return late.get_column(KNOWN_AT).n_unique() > 2


@given(histories, st.integers(1, 20))
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
def test_materialized_features_equal_the_join(case: Case, chunk: int) -> None:
    store = MemoryStore()
    with patch.object(materializing, "CHUNK_EVENTS", chunk), patch.object(materializing, "MAX_CODES", chunk):
        materialize(store, case.view, case.events, END_US)
    with patch.object(row_lookup, "LONG_WINDOW", chunk // 2):
        assert_same(case, store)


@given(histories, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
def test_features_pushed_in_any_order_equal_the_join(case: Case, size: int, random: Random) -> None:
    store = MemoryStore()
    for part in arriving(case, random).iter_slices(size):
        push(store, case.view, part)
    assert_same(case, store)


def test_generated_histories_have_late_events() -> None:
    tried = st.builds(lambda case, random: (case, arriving(case, random)), crowded(), st.randoms(use_true_random=False))
    generated = settings(max_examples=200, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    assert displaced(find(tried, displaced, settings=generated))


@given(histories, st.integers(1, 5), st.randoms(use_true_random=False), st.integers(1, 30))
@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
def test_lookup_after_very_late_events_is_right_or_refused(case: Case, size: int, random: Random, minutes: int) -> None:
    """What is read is right or refused, and refused only for times that lie further back."""
    store, lateness = MemoryStore(), minutes * MINUTE_US
    with (
        patch.object(state_codec, "MAX_LATENESS_US", lateness),
        patch.object(materializing, "MAX_LATENESS_US", lateness),
    ):
        for part in arriving(case, random).iter_slices(size):
            push(store, case.view, part)
    rows = edges(case).sample(fraction=0.2, seed=1)
    newest = build_history(case.view, case.events).group_by(case.view.entity.keys).agg(pl.col(KNOWN_AT).max())
    answerable = rows.join(newest, on=case.view.entity.keys).filter(
        pl.col(AS_OF).dt.epoch("us") > pl.col(KNOWN_AT) - lateness
    )
    if answerable.height:
        result = online(case.view, store, answerable, 1000)
        assert bits(result).equals(bits(point_in_time.join(case.view, case.events, answerable)))
    for row in rows.head(20).iter_slices(1):
        try:
            result = online(case.view, store, row, 1)
        except DataError:
            continue
        assert bits(result).equals(bits(point_in_time.join(case.view, case.events, row)))


def newest_value(*keys: str) -> FeatureView:
    return FeatureView(
        name="view", entity=Entity(name="entity", keys=keys), source="s", event_time="happened", known_at="known",
        latest=(Latest(column="x", name="x"),),
    )  # fmt: skip


def hourly(happened: list[int], known: list[int]) -> pl.DataFrame:
    """Events of one entity at hours since the epoch, numbered from 0."""
    hours = pl.DataFrame({"happened": happened, "known": known, "x": [float(i) for i in range(len(known))]})
    at = pl.col("happened", "known").cast(pl.Int64) * 60 * MINUTE_US
    return hours.select(at, "x", a=pl.lit("p"), b=pl.lit("r")).with_columns(pl.col("happened", "known").cast(INSTANT))


def test_correction_after_its_original_was_dropped_is_the_newest() -> None:
    """Of two events of one time the one that became known later is the newest, also when the other one arrives last."""
    store, view = MemoryStore(), newest_value("a", "b")
    events = hourly(happened=[10, 10, 5], known=[12, 11, 40])
    for row in (0, 2, 1):
        push(store, view, events[row : row + 1])
    request = events.tail(1).select("a", "b", pl.col("known").alias(AS_OF))
    assert online(view, store, request, 1).rows() == point_in_time.join(view, events, request).rows() == [(0.0,)]


class CountingStore(MemoryStore):
    """Counts its transactions."""

    transactions = 0

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.transactions += 1
        super().put_many(values)


def test_materialize_leaves_out_events_that_no_lookup_needs_before_it_writes() -> None:
    store, view = CountingStore(), newest_value("a", "b")
    hours = [*range(50), 200]
    with patch.object(materializing, "CHUNK_EVENTS", 1):
        assert materialize(store, view, hourly(hours, hours), END_US) == 51
    assert store.transactions == 2, "of the 50 events of more than a day ago only the last one"


def test_materialize_keeps_the_newest_event_though_a_later_known_one_is_old_too() -> None:
    store, view = MemoryStore(), newest_value("a", "b")
    events = hourly(happened=[3, 10, 5, 4], known=[3, 11, 12, 60])
    materialize(store, view, events, END_US)
    request = events.tail(1).select("a", "b", pl.col("known").alias(AS_OF))
    assert online(view, store, request, 1).rows() == point_in_time.join(view, events, request).rows() == [(1.0,)]


def test_memory_of_materialize_depends_on_entities_not_on_combinations_of_keys() -> None:
    """An array by combination of four keys of 3,000 values each would have 8e13 cells."""
    count, keys = 3_000, ("a", "b", "c", "d")
    names = [f"{i}" for i in range(count)]
    events = pl.DataFrame({**dict.fromkeys(keys, names), "x": range(count)}).with_columns(
        happened=pl.lit(0).cast(INSTANT), known=pl.lit(0).cast(INSTANT)
    )
    store = MemoryStore()
    assert materialize(store, newest_value(*keys), events, END_US) == count
    assert len(store.values) == count + 2, "one state for each entity, the watermark and the table's position"
