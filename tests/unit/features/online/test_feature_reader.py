"""What serving reads online is what the training frame holds, row for row and bit for bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from cluster.errors import SettingsError
from features.builders import category, derive, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.offline import point_in_time
from features.online.feature_reader import FeatureReader, request_features
from features.online.materialize import delete_view_state, materialize, watermark
from features.online.store import LmdbStore, open_store
from features.types import AS_OF, INSTANT

START = datetime(2024, 3, 9, tzinfo=UTC)
VIEWS = (
    FeatureView(
        name="spending",
        entity=Entity(name="shop", keys=("shop",)),
        source="visits",
        event_time="at",
        known_at="at",
        aggregates=rolling("spent", timedelta(hours=2), "spent_2h"),
    ),
    FeatureView(
        name="weather",
        entity=Entity(name="pair", keys=("shop", "city")),
        source="visits",
        event_time="at",
        known_at="known",
        latest=(Latest(column="spent", name="last_spent"), Latest(column="mood", name="mood", kind="category")),
        ttl=timedelta(hours=3),
    ),
)
FEATURES = FeatureSet(
    name="set",
    request=(*category("shop", "city"), *number("price"), *timestamp("when")),
    derived=(derive("hour", pl.col("when").dt.convert_time_zone("America/New_York").dt.hour(), "category"),),
    as_of=derive("as_of", pl.col("when") - timedelta(minutes=30), "timestamp"),
    views=VIEWS,
)


def history(rows: int, seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    at = [START + timedelta(seconds=int(s)) for s in np.sort(draw.integers(0, 48 * 3600, rows))]
    return pl.DataFrame({
        "shop": draw.choice(["a", "b", "c"], rows),
        "city": draw.choice(["x", "y"], rows),
        "spent": draw.normal(10, 100, rows),
        "mood": draw.choice(["good", "bad"], rows),
        "at": at,
        "known": [t + timedelta(seconds=int(s)) for t, s in zip(at, draw.integers(0, 4000, rows), strict=True)],
    }).with_columns(pl.col("at", "known").cast(INSTANT))  # fmt: skip


def requests(rows: int, seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    when = [START + timedelta(hours=25, seconds=int(s)) for s in draw.integers(0, 23 * 3600, rows)]
    return pl.DataFrame({
        "shop": [("a", "b", "c", "never seen", None)[i] for i in draw.integers(0, 5, rows)],
        "city": draw.choice(["x", "y"], rows),
        "price": draw.normal(size=rows),
        "when": when,
    }).with_columns(pl.col("when").cast(INSTANT))  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_online_is_offline_bit_for_bit(tmp_path, seed: int) -> None:
    events, asked = history(2000, seed), requests(300, seed)
    store = LmdbStore(tmp_path)
    for hour in range(24, 49, 3):
        for view in VIEWS:
            materialize(store, view, events, round((START + timedelta(hours=hour)).timestamp() * 1e6))
    rows = request_features(FEATURES, asked)
    offline = pl.concat([rows, *(point_in_time.join(view, events, rows) for view in VIEWS)], how="horizontal")
    online = pl.DataFrame(FeatureReader(FEATURES, store).read(asked.to_arrow(), 0))
    # The store holds a day behind the newest event; every request lies within.
    assert online.equals(offline.select(online.columns))


def test_an_event_that_is_delivered_after_a_later_run_is_not_lost(tmp_path) -> None:
    """Yesterday's export is taken up this afternoon; what was known this morning comes with tomorrow's."""
    everything = history(500, 3)
    yesterday = everything.filter(pl.col("known") <= START + timedelta(hours=20))
    now, later = (round((START + timedelta(hours=h)).timestamp() * 1e6) for h in (30, 47))
    late, prompt = LmdbStore(tmp_path / "late"), LmdbStore(tmp_path / "prompt")
    for view in VIEWS:
        materialize(late, view, yesterday, now)
        materialize(late, view, everything, later)
        materialize(prompt, view, everything, later)
    asked = requests(200, 3).filter(pl.col("when") < START + timedelta(hours=47)).to_arrow()
    assert FeatureReader(FEATURES, late).read(asked, 0).equals(FeatureReader(FEATURES, prompt).read(asked, 0))


def test_the_watermark_moves_and_forget_forgets(tmp_path) -> None:
    store, view = LmdbStore(tmp_path), VIEWS[0]
    assert watermark(store, view) is None
    until = round((START + timedelta(hours=10)).timestamp() * 1e6)
    events = history(500, 0)
    assert materialize(store, view, events, until) > 0
    known = events.get_column(view.known_at).dt.epoch("us")
    assert watermark(store, view) == known.filter(known <= until).max()
    delete_view_state(store, view)
    assert watermark(store, view) is None
    assert list(store.keys(b"")) == []


def test_without_as_of_the_server_s_clock_dates_a_request() -> None:
    plain = FeatureSet(name="plain", request=number("price"))
    rows = request_features(plain, pl.DataFrame({"price": [1.0]}), 1_700_000_000_000_000)
    assert rows.get_column(AS_OF).dt.epoch("us").to_list() == [1_700_000_000_000_000]


def test_an_unknown_kind_of_store_is_refused(tmp_path) -> None:
    with pytest.raises(SettingsError, match="lmdb"):
        open_store("oracle://nowhere")
    assert open_store(f"lmdb://{tmp_path}") is open_store(f"lmdb://{tmp_path}")
