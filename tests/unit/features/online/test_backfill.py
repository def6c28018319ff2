"""A rebuilt view equals the join for any earlier content of the store, and no other view changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from cluster.errors import DataError
from features.definitions import FeatureView
from features.derived_columns import request_features
from features.offline.point_in_time import join
from features.online import backfill as backfilling
from features.online.backfill import BackfillResult, backfill, rebuild_entities
from features.online.feature_reader import FeatureReader
from features.online.keys import state_prefix
from features.online.lmdb_store import LmdbStore
from features.online.materialize import materialize, push, watermark
from features.online.store import OnlineStore
from tests.factories.errors import raises
from tests.factories.features.shops import FEATURES, VIEWS, requests, visits

END = 10**18
SPENDING, WEATHER = VIEWS


@pytest.fixture
def store(tmp_path: Path) -> LmdbStore:
    return LmdbStore(tmp_path)


def rebuild(
    store: OnlineStore, view: FeatureView, events: pl.DataFrame, until_us: int, since_us: int | None = None
) -> BackfillResult:
    return backfill(store, view, events.iter_slices(300), events.height, until_us, since_us)


def assert_as_joined(store: OnlineStore, events: pl.DataFrame) -> None:
    request = requests(300, 1)
    rows = request_features(FEATURES, request)
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(request.to_arrow(), 0))
    for view in VIEWS:
        offline = join(view, events, rows)
        assert online.select(offline.columns).equals(offline, null_equal=True)


def contents(store: OnlineStore, prefix: bytes) -> dict[bytes, bytes | None]:
    keys = sorted(store.keys(prefix))
    return dict(zip(keys, store.get_many(keys), strict=True))


@pytest.mark.parametrize("part", [1_000_000, 70])
def test_backfill_gives_features_of_the_join(store: LmdbStore, part: int, monkeypatch) -> None:
    monkeypatch.setattr(backfilling, "MAX_EVENTS", part)
    events = visits(2000, 0)
    for view in VIEWS:
        progress = rebuild(store, view, events, END)
        assert (progress.events, progress.removed_entities) == (2000, 0)
        assert watermark(store, view) is not None
    assert_as_joined(store, events)
    before = contents(store, b"")
    for view in VIEWS:
        rebuild(store, view, events, END)
    assert contents(store, b"") == before


def test_backfill_of_a_large_table_keeps_one_part_in_memory(store: LmdbStore, monkeypatch) -> None:
    monkeypatch.setattr(backfilling, "MAX_EVENTS", 200)
    sizes: list[int] = []
    replaced = backfilling.apply_events
    monkeypatch.setattr(backfilling, "apply_events", lambda *of: sizes.append(of[-1].height) or replaced(*of))
    view = SPENDING.model_copy(update={"entity": SPENDING.entity.model_copy(update={"keys": ("visit",)})})
    events = visits(2000, 0).with_columns(visit=pl.int_range(pl.len()).cast(pl.String))
    assert rebuild(store, view, events, END).entities == sum(sizes) == 2000
    assert max(sizes) < 2 * 200


def test_backfill_leaves_other_views_unchanged(store: LmdbStore) -> None:
    events = visits(500, 0)
    for view in VIEWS:
        materialize(store, view, events, END)
    others = contents(store, state_prefix(WEATHER))
    changed = events.with_columns(pl.col("spent") + 1)
    rebuild(store, SPENDING, changed, END)
    assert contents(store, state_prefix(WEATHER)) == others
    assert contents(store, b"")


def test_backfill_since_a_time_adds_late_events(store: LmdbStore) -> None:
    events = visits(2000, 3)
    late = events.filter(pl.int_range(pl.len()) % 10 == 0)
    for view in VIEWS:
        materialize(store, view, events.join(late, on=events.columns, how="anti", maintain_order="left"), END)
    with pytest.raises(AssertionError):
        assert_as_joined(store, events)
    for view in VIEWS:
        since = round(late.get_column("at").min().timestamp() * 1e6)
        rebuild(store, view, events, END, since)
    assert_as_joined(store, events)


def test_backfill_since_a_time_rebuilds_only_entities_with_later_events(store: LmdbStore) -> None:
    events = visits(300, 0).with_columns(
        pl.when(pl.int_range(pl.len()) < 150).then(pl.lit("a")).otherwise(pl.lit("b")).alias("shop")
    )
    since = round(events.get_column("at")[200].timestamp() * 1e6)
    assert rebuild(store, SPENDING, events, END, since).entities == 1
    assert rebuild(store, SPENDING, events.filter(pl.col("shop") == "b"), END).removed_entities == 0
    assert rebuild(store, SPENDING, events, END).entities == 2
    assert rebuild(store, SPENDING, events.filter(pl.col("shop") == "b"), END).removed_entities == 1


def test_backfill_with_pushed_events_missing_in_table_is_refused(store: LmdbStore) -> None:
    events = visits(300, 0).sort("known")
    materialize(store, SPENDING, events.head(250), END)
    push(store, SPENDING, events.tail(50))
    with raises(DataError, "data.online_ahead_of_table", view="spending"):
        rebuild(store, SPENDING, events.head(250), END)


def test_rebuild_entities_gives_features_of_remaining_events(store: LmdbStore) -> None:
    events = visits(2000, 5)
    for view in VIEWS:
        materialize(store, view, events, END)
    left = events.filter((pl.col("shop") != "c") & ~((pl.col("shop") == "a") & (pl.col("mood") == "bad")))
    gone = events.join(left, on=events.columns, how="anti")
    for view in VIEWS:
        mark = watermark(store, view)
        assert rebuild_entities(store, view, left.iter_slices(300), gone.select(view.entity.keys)).removed_entities > 0
        assert watermark(store, view) == mark
    assert_as_joined(store, left)


def test_rebuild_entities_of_a_view_without_state_does_nothing(store: LmdbStore) -> None:
    events = visits(100, 0)
    assert rebuild_entities(store, SPENDING, [events], events.select("shop")).entities == 0
    assert not list(store.keys(b""))
