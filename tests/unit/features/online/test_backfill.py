"""A view made anew gives what the join gives, whatever was in the store, and no other view changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from cluster.errors import DataError
from features.definitions import FeatureView
from features.offline.point_in_time import join
from features.online import backfill as backfilling
from features.online.backfill import BackfillResult, backfill, rebuild_entities
from features.online.feature_reader import FeatureReader, request_features
from features.online.keys import state_prefix
from features.online.materialize import materialize, push, watermark
from features.online.store import LmdbStore, OnlineStore
from tests.unit.features.online.test_feature_reader import FEATURES, VIEWS, history, requests

END = 10**18
SPENDING, WEATHER = VIEWS


@pytest.fixture
def store(tmp_path: Path) -> LmdbStore:
    return LmdbStore(tmp_path)


def made_anew(
    store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int, since_us: int | None = None
) -> BackfillResult:
    return backfill(store, view, events.iter_slices(300), events.height, until_us, since_us)


def assert_as_joined(store: OnlineStore, events: pl.DataFrame) -> None:
    asked = requests(300, 1)
    rows = request_features(FEATURES, asked)
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(asked.to_arrow(), 0))
    for view in VIEWS:
        offline = join(view, events, rows)
        assert online.select(offline.columns).equals(offline, null_equal=True)


def contents(store: OnlineStore, prefix: bytes) -> dict[bytes, bytes | None]:
    keys = sorted(store.keys(prefix))
    return dict(zip(keys, store.get_many(keys), strict=True))


@pytest.mark.parametrize("part", [1_000_000, 70])
def test_a_backfilled_view_gives_what_the_join_gives(store: LmdbStore, part: int, monkeypatch) -> None:
    monkeypatch.setattr(backfilling, "_PART_EVENTS", part)
    events = history(2000, 0)
    for view in VIEWS:
        done = made_anew(store, view, events, END)
        assert (done.events, done.removed) == (2000, 0)
        assert watermark(store, view) is not None
    assert_as_joined(store, events)
    before = contents(store, b"")
    for view in VIEWS:
        made_anew(store, view, events, END)
    assert contents(store, b"") == before


def test_no_more_is_in_memory_than_a_part_of_the_entities(store: LmdbStore, monkeypatch) -> None:
    monkeypatch.setattr(backfilling, "_PART_EVENTS", 200)
    sizes: list[int] = []
    replaced = backfilling.apply_events
    monkeypatch.setattr(backfilling, "apply_events", lambda *of: sizes.append(of[-1].height) or replaced(*of))
    view = SPENDING.model_copy(update={"entity": SPENDING.entity.model_copy(update={"keys": ("visit",)})})
    events = history(2000, 0).with_columns(visit=pl.int_range(pl.len()).cast(pl.String))
    assert made_anew(store, view, events, END).entities == sum(sizes) == 2000
    assert max(sizes) < 2 * 200


def test_other_views_are_not_touched(store: LmdbStore) -> None:
    events = history(500, 0)
    for view in VIEWS:
        materialize(store, view, events, END)
    others = contents(store, state_prefix(WEATHER))
    changed = events.with_columns(pl.col("spent") + 1)
    made_anew(store, SPENDING, changed, END)
    assert contents(store, state_prefix(WEATHER)) == others
    assert contents(store, b"")


def test_what_was_corrected_or_landed_late_finds_its_place(store: LmdbStore) -> None:
    events = history(2000, 3)
    late = events.filter(pl.int_range(pl.len()) % 10 == 0)
    for view in VIEWS:
        materialize(store, view, events.join(late, on=events.columns, how="anti", maintain_order="left"), END)
    with pytest.raises(AssertionError):
        assert_as_joined(store, events)
    for view in VIEWS:
        since = round(late.get_column("at").min().timestamp() * 1e6)
        made_anew(store, view, events, END, since)
    assert_as_joined(store, events)


def test_only_entities_with_later_events_are_made_anew(store: LmdbStore) -> None:
    events = history(300, 0).with_columns(
        pl.when(pl.int_range(pl.len()) < 150).then(pl.lit("a")).otherwise(pl.lit("b")).alias("shop")
    )
    since = round(events.get_column("at")[200].timestamp() * 1e6)
    assert made_anew(store, SPENDING, events, END, since).entities == 1
    assert made_anew(store, SPENDING, events.filter(pl.col("shop") == "b"), END).removed == 0
    assert made_anew(store, SPENDING, events, END).entities == 2
    assert made_anew(store, SPENDING, events.filter(pl.col("shop") == "b"), END).removed == 1


def test_pushed_events_that_are_not_landed_yet_are_not_lost(store: LmdbStore) -> None:
    events = history(300, 0).sort("known")
    materialize(store, SPENDING, events.head(250), END)
    push(store, SPENDING, events.tail(50))
    with pytest.raises(DataError, match="newer than its table"):
        made_anew(store, SPENDING, events.head(250), END)


def test_what_is_left_of_some_entities_is_made_anew(store: LmdbStore) -> None:
    events = history(2000, 5)
    for view in VIEWS:
        materialize(store, view, events, END)
    left = events.filter((pl.col("shop") != "c") & ~((pl.col("shop") == "a") & (pl.col("mood") == "bad")))
    gone = events.join(left, on=events.columns, how="anti")
    for view in VIEWS:
        mark = watermark(store, view)
        assert rebuild_entities(store, view, left.iter_slices(300), gone.select(view.entity.keys)).removed > 0
        assert watermark(store, view) == mark
    assert_as_joined(store, left)


def test_a_view_that_was_never_materialised_stays_empty(store: LmdbStore) -> None:
    events = history(100, 0)
    assert rebuild_entities(store, SPENDING, [events], events.select("shop")).entities == 0
    assert not list(store.keys(b""))
