"""Corrected rows online: after a load, features are those of the join over the same table, as of the same time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.builders import category, number, timestamp
from features.derived_columns import request_features
from features.offline.point_in_time import index_events, look_up_features
from features.online.bulk_load import load_snapshot
from features.online.feature_reader import FeatureReader
from features.online.lmdb_store import LmdbStore
from features.online.materialize import push
from features.sources.landing import check_block, decide
from features.sources.row_versions import KnownRows, fingerprint_columns
from features.sources.source import Source
from features.sources.stored_rows import count_corrections, read_newest, read_rows, record_ingestion, stored_values
from features.types import AS_OF, KNOWN_FROM
from tests.factories.features.landing import empty_table, land
from tests.factories.features.shops import FEATURES, VIEWS, requests, visits

TABLE = "shop.visits"
LAST = 10**18


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path / "home"))


@pytest.fixture
def store(tmp_path: Path) -> LmdbStore:
    return LmdbStore(tmp_path / "store")


class Landing:
    """A source whose batches land in a table, as ingestion does it."""

    def __init__(self, tables: Tables, first: pl.DataFrame) -> None:
        self.tables = tables
        self.source = _source(dict(first.schema))
        self.table = empty_table(self.source)

    def land(self, batch: pl.DataFrame, now: datetime) -> Snapshot:
        landed = land(self.source, self.table, batch, now)
        self.table, rows = landed.table, landed.new.to_arrow()
        record_ingestion(self.tables, TABLE, rows.schema, self.source.key, now)
        return self.tables.append(TABLE, rows)


def _source(columns: dict[str, pl.DataType]) -> Source:
    kinds = {pl.Float64: number, pl.String: category}
    declared = [column for name, kind in columns.items() for column in kinds.get(kind, timestamp)(name)]
    return Source(
        name="visits", key=("visit",), columns=tuple(declared), event_time="at", known_at="known", read=lambda: None
    )


def identified(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_row_index("visit").with_columns(pl.col("visit").cast(pl.String))


def corrected(events: pl.DataFrame, seed: int, count: int = 60) -> pl.DataFrame:
    """Rows with other values; some belong to another entity, some happened at another time, some are not known."""
    rng = np.random.default_rng(seed)
    chosen = events[np.sort(rng.choice(events.height, count, replace=False))]
    shop = pl.Series(rng.choice(events.get_column("shop").to_numpy(), count))
    spent = pl.Series(rng.choice([1.5, -2.0, 40.25, 7.0], count))
    return chosen.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(shop).otherwise("shop").alias("shop"), spent.alias("spent")
    )


def assert_as_joined(store: LmdbStore, tables: Tables, snapshot: Snapshot) -> None:
    request = requests(300, 1)
    rows = request_features(FEATURES, request)
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(request.to_arrow(), 0))
    for view in VIEWS:
        offline = look_up_features(view, index_events(view, read_newest(tables, snapshot)), rows)
        assert online.select(offline.columns).equals(offline, null_equal=True)


def load(store: LmdbStore, tables: Tables, snapshot: Snapshot, until_us: int = LAST) -> None:
    for view in VIEWS:
        load_snapshot(store, view, tables, snapshot, until_us)


NOW = datetime(2024, 6, 1, tzinfo=UTC)


def test_load_of_corrections_gives_features_of_the_corrected_rows(store: LmdbStore, tables: Tables) -> None:
    events = identified(visits(2000, 0))
    landing = Landing(tables, events)
    load(store, tables, landing.land(events.head(1500), NOW))
    for step in range(3):
        batch = pl.concat([corrected(events.head(1500), step), events.slice(1500 + 100 * step, 100)])
        snapshot = landing.land(batch, NOW + timedelta(days=step + 1))
        assert count_corrections(tables, snapshot) > 50
        load(store, tables, snapshot)
        assert_as_joined(store, tables, snapshot)


def test_load_again_rebuilds_nothing(store: LmdbStore, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    events = identified(visits(600, 0))
    landing = Landing(tables, events)
    landing.land(events.head(500), NOW)
    snapshot = landing.land(corrected(events.head(500), 0), NOW + timedelta(days=1))
    load(store, tables, snapshot)
    monkeypatch.setattr("features.online.corrections.rebuild_entities", None)
    load(store, tables, snapshot)
    load(store, tables, landing.land(events.tail(100), NOW + timedelta(days=2)))


def test_correction_known_later_is_applied_once_it_is_known(store: LmdbStore, tables: Tables) -> None:
    events = identified(visits(500, 0))
    landing = Landing(tables, events)
    first = landing.land(events, NOW)
    later = landing.land(corrected(events, 0), NOW + timedelta(days=1))
    at = round(NOW.timestamp() * 1e6)
    load(store, tables, later, at)
    assert_as_joined(store, tables, first)
    load(store, tables, later, at + 2 * 86_400_000_000)
    assert_as_joined(store, tables, later)


def test_rebuild_keeps_events_that_were_pushed_ahead_of_the_table(store: LmdbStore, tables: Tables) -> None:
    events = identified(visits(600, 0)).sort("known")
    landing = Landing(tables, events)
    load(store, tables, landing.land(events.head(500), NOW))
    for view in VIEWS:
        ahead = events.tail(100).filter(pl.col(view.known_at) > events.head(500).get_column(view.known_at).max())
        push(store, view, ahead)
    snapshot = landing.land(corrected(events.head(500), 0), NOW + timedelta(days=1))
    load(store, tables, snapshot)
    request = requests(300, 1)
    rows = request_features(FEATURES, request)
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(request.to_arrow(), 0))
    for view in VIEWS:
        ahead = events.tail(100).filter(pl.col(view.known_at) > events.head(500).get_column(view.known_at).max())
        both = pl.concat([read_newest(tables, snapshot), ahead.select(read_newest(tables, snapshot).columns)])
        offline = look_up_features(view, index_events(view, both), rows)
        assert online.select(offline.columns).equals(offline, null_equal=True)


def test_join_of_a_table_as_of_an_earlier_time_is_that_of_the_earlier_snapshot(tables: Tables) -> None:
    events = identified(visits(2000, 0))
    landing = Landing(tables, events)
    snapshots = [landing.land(events, datetime(2024, 3, 1, tzinfo=UTC))]
    middle = events.get_column("known").sort()[1_500]
    snapshots.append(landing.land(corrected(events, 1), middle))
    rows = request_features(FEATURES, requests(2000, 3)).filter(pl.col(AS_OF) < middle)
    assert rows.height > 100
    for view in VIEWS:
        before, after = (
            look_up_features(view, index_events(view, read_rows(tables, s, view.source_columns)), rows)
            for s in snapshots
        )
        assert before.equals(after, null_equal=True)


def test_table_of_the_release_before_is_read_and_corrected(store: LmdbStore, tables: Tables) -> None:
    events = identified(visits(400, 0))
    landing = Landing(tables, events)
    old = tables.append(TABLE, land(landing.source, landing.table, events, NOW).new.drop(KNOWN_FROM).to_arrow())
    assert (count_corrections(tables, old), read_newest(tables, old).height) == (0, 400)
    load(store, tables, old)
    known = KnownRows.build(landing.source, stored_values(tables, old, fingerprint_columns(landing.source)))
    fixed = corrected(events, 0)
    checked = check_block(landing.source, fixed, known)
    versions, bad = decide(landing.source, checked, known, NOW)
    assert (versions.height, bad.height) == (60, 0)
    rows = versions.select([*landing.source.column_names, KNOWN_FROM]).to_arrow()
    record_ingestion(tables, TABLE, rows.schema, landing.source.key, NOW)
    snapshot = tables.append(TABLE, rows, evolve=True)
    assert (count_corrections(tables, snapshot), count_corrections(tables, old)) == (60, 0)
    load(store, tables, snapshot)
    assert_as_joined(store, tables, snapshot)


def test_read_newest_has_each_row_once_without_the_column_of_versions(tables: Tables) -> None:
    events = identified(visits(300, 0))
    landing = Landing(tables, events)
    landing.land(events, NOW)
    fixed = corrected(events, 0)
    rows = read_newest(tables, landing.land(fixed, NOW + timedelta(days=1)))
    assert KNOWN_FROM not in rows.columns
    expected = pl.concat([events.join(fixed, on="visit", how="anti"), fixed]).select(rows.columns)
    assert rows.sort("visit").equals(expected.sort("visit"))
