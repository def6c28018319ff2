"""The contract of online stores, on LMDB and on a real Redis server."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError, SettingsError, StoreUnavailable
from cluster.node.ports import free_port
from features.builders import category
from features.definitions import FeatureSet
from features.offline import point_in_time
from features.online.feature_reader import FeatureReader
from features.online.keys import state_key, state_keys, state_prefix
from features.online.materialize import delete_view_state, materialize, push, watermark
from features.online.store import OnlineStore, open_store
from features.types import AS_OF, INSTANT
from tests.factories.errors import raises
from tests.factories.features.views import EPOCH, VIEW

HOUR_US = 3_600_000_000
START_US = round(EPOCH.timestamp() * 1e6)


def test_get_many_returns_values_in_order_of_keys(store: OnlineStore) -> None:
    store.put_many({b"a": b"1", b"b": b"\x00\xff\n", b"c": b"3" * 100_000})
    assert store.get_many([b"c", b"none", b"a", b"b", b"a"]) == [b"3" * 100_000, None, b"1", b"\x00\xff\n", b"1"]
    assert store.get_many([]) == []


def test_put_many_replaces_earlier_values(store: OnlineStore) -> None:
    store.put_many({b"a": b"1", b"b": b"2"})
    store.put_many({b"a": b"longer"})
    store.put_many({})
    assert store.get_many([b"a", b"b"]) == [b"longer", b"2"]


def test_keys_finds_keys_by_prefix(store: OnlineStore) -> None:
    names = [b"p/1", b"p/\xff\x00", b"p*", b"q/1", b"p[/]?\\"]
    store.put_many(dict.fromkeys(names, b"x"))
    assert sorted(store.keys(b"p/")) == sorted(names[:2])
    assert sorted(store.keys(b"p[/]?")) == [b"p[/]?\\"]
    assert sorted(store.keys(b"p*")) == [b"p*"]
    assert sorted(store.keys(b"")) == sorted(names)


def test_delete_removes_keys_and_ignores_missing_ones(store: OnlineStore) -> None:
    store.put_many({b"%d" % i: b"x" for i in range(25_000)})
    store.delete([b"%d" % i for i in range(1, 25_000)])
    store.delete([b"1", b"never there"])
    assert store.keys(b"") == [b"0"]


def test_open_store_twice_returns_the_same_store(uri: str) -> None:
    assert open_store(uri, "shop").shared is open_store(uri, "other").shared


def request_rows(times: int) -> pl.DataFrame:
    when = [EPOCH + timedelta(hours=100, minutes=7 * i) for i in range(times)]
    return pl.DataFrame({"a": "p", "b": ["q", "unlisted"] * (times // 2), AS_OF: when}).with_columns(
        pl.col(AS_OF).cast(INSTANT)
    )


def read(store: OnlineStore, rows: pl.DataFrame) -> pl.DataFrame:
    features = FeatureSet(name="set", request=category("a", "b"), views=(VIEW,))
    reader = FeatureReader(features, store)
    parts = [
        reader.read(r.select("a", "b").to_arrow(), round(r.item(0, AS_OF).timestamp() * 1e6))
        for r in rows.iter_slices(1)
    ]
    return pl.DataFrame(pa.concat_tables(parts)).select(c.name for c in VIEW.columns)


def test_materialized_features_equal_the_join(store: OnlineStore, hourly_events: pl.DataFrame) -> None:
    materialize(store, VIEW, hourly_events, START_US + 200 * HOUR_US)
    assert read(store, request_rows(40)).equals(point_in_time.join(VIEW, hourly_events, request_rows(40)))


def test_push_drops_only_events_that_no_exact_lookup_needs(store: OnlineStore, hourly_events: pl.DataFrame) -> None:
    for rows in hourly_events.iter_slices(5):
        push(store, VIEW, rows)
    [key] = store.keys(state_prefix(VIEW))
    assert int.from_bytes(store.get_many([key])[0][:8], "little") < hourly_events.height / 3
    rows = hourly_events.tail(20).select("a", "b", pl.col("known").alias(AS_OF))
    assert read(store, rows).equals(point_in_time.join(VIEW, hourly_events, rows))
    with raises(DataError, "data.lookup_too_old", view="view"):
        read(store, hourly_events.head(1).select("a", "b", pl.col("known").alias(AS_OF)))
    reader = FeatureReader(FeatureSet(name="set", request=category("a", "b"), views=(VIEW,)), store)
    with raises(DataError, "data.lookup_too_old", view="view"):
        reader.read(pa.table({"a": ["p"] * 9, "b": ["q"] * 9}), START_US)


def test_push_of_known_position_is_ignored(store: OnlineStore, hourly_events: pl.DataFrame) -> None:
    first, second = hourly_events.head(60), hourly_events.tail(60)
    assert push(store, VIEW, second, "partition 1", 7) == 60
    assert push(store, VIEW, second, "partition 1", 7) == 0
    assert push(store, VIEW, second, "partition 1", 3) == 0
    assert push(store, VIEW, first, "partition 2", 3) == 60
    assert read(store, request_rows(40)).equals(point_in_time.join(VIEW, hourly_events, request_rows(40)))


def test_materialize_after_push_adds_only_later_events(store: OnlineStore, hourly_events: pl.DataFrame) -> None:
    push(store, VIEW, hourly_events.head(80))
    assert materialize(store, VIEW, hourly_events, START_US + 200 * HOUR_US) == 40
    assert read(store, request_rows(40)).equals(point_in_time.join(VIEW, hourly_events, request_rows(40)))


def test_delete_view_state_removes_state(store: OnlineStore, hourly_events: pl.DataFrame) -> None:
    push(store, VIEW, hourly_events, "producer", 1)
    assert watermark(store, VIEW) is not None
    delete_view_state(store, VIEW)
    assert list(store.keys(b"")) == []


@pytest.mark.long
def test_materialize_killed_and_run_again_gives_equal_bytes(store: OnlineStore, uri: str, tmp_path: Path) -> None:
    """The process dies after some chunks, at a moment it does not choose."""
    script = [sys.executable, "-m", "tests.factories.features.killed_materialize", uri]
    killed = subprocess.run([*script, "3"], check=False)
    assert killed.returncode == -9
    partly = {key: store.get_many([key]) for key in store.keys(b"")}
    subprocess.run([*script, "0"], check=True)
    resumed = {key: store.get_many([key]) for key in store.keys(b"")}
    store.delete(store.keys(b""))
    subprocess.run([*script, "0"], check=True)
    assert {key: store.get_many([key]) for key in store.keys(b"")} == resumed
    assert partly
    assert partly != resumed


def test_unreachable_store_is_named() -> None:
    away = open_store(f"redis://127.0.0.1:{free_port()}", "shop")
    with raises(StoreUnavailable, "store.unreachable", address="127.0.0.1"):
        away.get_many([b"a"])
    with pytest.raises(StoreUnavailable):
        away.put_many({b"a": b"1"})


@pytest.mark.parametrize("address", ["oracle://nowhere", "/a/path", "redis://host:port"])
def test_open_store_with_invalid_address_is_refused(address: str) -> None:
    with raises(SettingsError, "settings.online_store"):
        open_store(address, "shop")


def test_read_of_empty_request_has_all_columns(store: OnlineStore) -> None:
    reader = FeatureReader(FeatureSet(name="set", request=category("a", "b"), views=(VIEW,)), store)
    frame = reader.read(pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())}), START_US)
    assert frame.num_rows == 0
    assert set(frame.column_names) >= {c.name for c in VIEW.columns}


@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), unique=True, max_size=20))
def test_state_keys_of_different_entities_differ_and_fit_lmdb(entities: list[tuple[str, str]]) -> None:
    keys = [state_key(b"view/", entity) for entity in entities]
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys), default=0) <= 511
    assert keys == state_keys(b"view/", [list(part) for part in zip(*entities, strict=True)])


def test_open_store_creates_missing_folders(tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/several/missing/folders", "shop")
    store.put_many({b"a": b"1"})
    assert store.get_many([b"a"]) == [b"1"]
