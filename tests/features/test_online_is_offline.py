"""What is read online at a time is what the join gives for it, bit for bit: on any history, fed in any way."""

from __future__ import annotations

from random import Random

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import pit
from features.declare import category, timestamp
from features.definitions import FeatureSet, FeatureView
from features.history import AT, history
from features.materialize import materialize, push
from features.pit import AS_OF, INSTANT
from features.reader import FeatureReader
from tests.features.cases import MINUTE_US, Case, cases, views
from tests.features.stores import MemoryStore

CASES = 200
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
    asked = rows.select("a", "b", as_of.alias("when"))
    parts = [pl.DataFrame(reader.frame(part.to_arrow(), 0)) for part in asked.iter_slices(at_once)]
    names = [column.name for column in view.columns]
    return pl.concat([part.select(names) for part in parts])


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Numbers as their bytes: 0.0 and -0.0 differ."""
    numbers = [c for c in frame.columns if frame.schema[c] == pl.Float64]
    return frame.with_columns(pl.col(numbers).reinterpret(signed=False)) if numbers else frame


def edges(case: Case) -> pl.DataFrame:
    """Rows of the entities of all events at times when something begins or ceases to count."""
    keys = list(case.view.entity.keys)
    known = history(case.view, case.events)
    shifts = {0, *(a.window_us for a in case.view.aggregates), case.view.ttl_us or 0}
    times = {at + shift + step for at in known.get_column(AT) for shift in shifts for step in (-1, 0, 1)}
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
            expected = pit.join(case.view, case.events, rows)
            assert bits(online(case.view, store, rows, at_once)).equals(bits(expected))


@st.composite
def crowded(draw: st.DrawFn) -> Case:
    """Many events of two entities on few minutes: late ones, ties and repeated values are the rule."""
    random = draw(st.randoms(use_true_random=True))
    cells = [
        (random.choice("pq"), "r", at, at + random.choice((0, 0, 1, random.randrange(30))), *random.choice(VALUES))
        for at in (random.randrange(40) for _ in range(draw(st.integers(1, 60))))
    ]
    names = ("a", "b", "happened", "known", "x", "c", "sequence")
    events = pl.DataFrame(cells, schema=names, orient="row", strict=False).with_columns(
        (pl.col("happened", "known") * MINUTE_US).cast(INSTANT),
        pl.col("x").cast(pl.Float64),
        revised=pl.lit(None, INSTANT),
    )
    return Case(draw(views()), events, events.select("a", "b", pl.col("known").alias(AS_OF)).head(3))


histories = st.one_of(cases(), crowded(), crowded(), crowded())


@given(histories)
@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
def test_materialised(case: Case) -> None:
    store = MemoryStore()
    materialize(store, case.view, case.events, END_US)
    assert_same(case, store)


@given(histories, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
def test_pushed_in_any_order(case: Case, size: int, random: Random) -> None:
    """But for events that count from the same time on: their order is the last resort of the rule for ties."""
    store, parts = MemoryStore(), [*case.events.iter_slices(size)]
    if history(case.view, case.events).get_column(AT).is_unique().all():
        random.shuffle(parts)
    for part in parts:
        push(store, case.view, part)
    assert_same(case, store)
