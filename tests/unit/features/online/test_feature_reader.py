"""Features read online equal those of the training frame, row for row and bit for bit."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from cluster.errors import SettingsError
from features.builders import number
from features.definitions import FeatureSet
from features.derived_columns import request_features
from features.offline import point_in_time
from features.online.feature_reader import FeatureReader
from features.online.lmdb_store import LmdbStore
from features.online.materialize import delete_view_state, materialize, watermark
from features.online.store import open_store
from features.types import AS_OF
from tests.factories.errors import raises
from tests.factories.features.shops import FEATURES, START, VIEWS, requests, visits
from tests.factories.features.stores import MemoryStore


@pytest.mark.parametrize("seed", range(5))
def test_feature_reader_gives_offline_features_bit_for_bit(tmp_path, seed: int) -> None:
    events, request = visits(2000, seed), requests(300, seed)
    store = LmdbStore(tmp_path)
    for hour in range(24, 49, 3):
        for view in VIEWS:
            materialize(store, view, events, round((START + timedelta(hours=hour)).timestamp() * 1e6))
    rows = request_features(FEATURES, request)
    offline = pl.concat([rows, *(point_in_time.join(view, events, rows) for view in VIEWS)], how="horizontal")
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(request.to_arrow(), 0))
    # The store keeps the day before the newest event; every request is within it.
    assert online.equals(offline.select(online.columns))


def test_event_delivered_after_a_later_run_is_not_lost(tmp_path) -> None:
    """Yesterday's export is ingested this afternoon; events known this morning come with tomorrow's export."""
    everything = visits(500, 3)
    yesterday = everything.filter(pl.col("known") <= START + timedelta(hours=20))
    now, later = (round((START + timedelta(hours=h)).timestamp() * 1e6) for h in (30, 47))
    late, prompt = LmdbStore(tmp_path / "late"), LmdbStore(tmp_path / "prompt")
    for view in VIEWS:
        materialize(late, view, yesterday, now)
        materialize(late, view, everything, later)
        materialize(prompt, view, everything, later)
    request = requests(200, 3).filter(pl.col("when") < START + timedelta(hours=47)).to_arrow()
    assert FeatureReader(FEATURES, late).read(request, 0).equals(FeatureReader(FEATURES, prompt).read(request, 0))


def test_watermark_is_newest_event_and_is_deleted_with_the_view(tmp_path) -> None:
    store, view = LmdbStore(tmp_path), VIEWS[0]
    assert watermark(store, view) is None
    until = round((START + timedelta(hours=10)).timestamp() * 1e6)
    events = visits(500, 0)
    assert materialize(store, view, events, until) > 0
    known = events.get_column(view.known_at).dt.epoch("us")
    assert watermark(store, view) == known.filter(known <= until).max()
    delete_view_state(store, view)
    assert watermark(store, view) is None
    assert list(store.keys(b"")) == []


def test_request_without_as_of_is_dated_by_the_clock() -> None:
    plain = FeatureSet(name="plain", request=number("price"))
    rows = request_features(plain, pl.DataFrame({"price": [1.0]}), 1_700_000_000_000_000)
    assert rows.get_column(AS_OF).dt.epoch("us").to_list() == [1_700_000_000_000_000]


def test_open_store_with_unknown_scheme_is_refused(tmp_path) -> None:
    with raises(SettingsError, "settings.online_store"):
        open_store("oracle://nowhere", "shop")
    assert open_store(f"lmdb://{tmp_path}", "shop").shared is open_store(f"lmdb://{tmp_path}", "shop").shared


@pytest.mark.parametrize("at_once", [1, 20])
@pytest.mark.parametrize("missing", ["shop", "when"])
def test_row_without_key_or_time_has_null_features_and_changes_no_other_row(missing: str, at_once: int) -> None:
    store = MemoryStore()
    for view in VIEWS:
        # The store has dropped the events that a lookup at the epoch would need.
        materialize(store, view, visits(500, 0), round((START + timedelta(days=2)).timestamp() * 1e6))
    reader = FeatureReader(FEATURES, store)
    request = requests(20, 0).with_columns(shop=pl.lit("a"))
    gap = request.with_columns(pl.when(pl.int_range(pl.len()) != 3).then(pl.col(missing)).alias(missing))
    complete, incomplete = (
        pl.concat([pl.DataFrame(reader.read(part.to_arrow(), 0)) for part in rows.iter_slices(at_once)])
        for rows in (request, gap)
    )
    names = [column.name for view in VIEWS for column in view.columns]
    assert incomplete.select(names).row(3) == (None,) * len(names)
    assert (
        incomplete.with_row_index()
        .filter(pl.col("index") != 3)
        .select(names)
        .equals(complete.with_row_index().filter(pl.col("index") != 3).select(names))
    )
    assert complete.get_column("spent_2h_count").null_count() == 0


def test_read_of_no_rows_has_every_column_in_its_type() -> None:
    frame = FeatureReader(FEATURES, MemoryStore()).read(requests(1, 0).head(0).to_arrow(), 0)
    assert frame.num_rows == 0
    one = FeatureReader(FEATURES, MemoryStore()).read(requests(1, 0).to_arrow(), 0)
    assert frame.schema == one.schema
