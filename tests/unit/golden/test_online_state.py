"""The online store: bytes of keys and states, which current code must read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from features.definitions import Column, FeatureSet, FeatureView
from features.online.feature_reader import FeatureReader
from features.online.keys import state_key, state_keys, state_prefix
from features.online.materialize import materialize, push
from features.online.store import LmdbStore
from tests.factories.golden import samples
from tests.factories.golden.files import DATA, golden

START = datetime(2024, 5, 1, tzinfo=UTC)
SET = FeatureSet(
    name="set",
    request=(*samples.REQUEST, Column(name="airport", kind="category")),
    as_of=samples.TRIPS.as_of,
    views=(samples.VIEW, samples.PAIR),
)


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def _events() -> pl.DataFrame:
    minutes = [0, 20, 20, 50, 90, 400]
    departed = [START + timedelta(minutes=minute) for minute in minutes]
    return pl.DataFrame(
        {
            "carrier": ["AA", "AA", "AA", "ÜÄ", "AA", "AA"],
            "airport": ["JFK", "EWR", "JFK", "LGA", "JFK", None],
            "departed": pl.Series(departed, dtype=pl.Datetime("us", "UTC")),
            "known": pl.Series([at + timedelta(minutes=10) for at in departed], dtype=pl.Datetime("us", "UTC")),
            "delay": [5.25, None, -3.5, 1.0, 5.25, 100.125],
            "gate": ["a1", "b2", None, "c3", "a1", "Ω"],
            "number": [1, 2, 3, 4, 5, 6],
        }
    )


def _stored(store: LmdbStore) -> dict[str, str]:
    keys = sorted(store.keys(b""))
    return {key.hex(): value.hex() for key, value in zip(keys, store.get_many(keys), strict=True) if value is not None}


def _values(store: LmdbStore) -> list[list[str]]:
    """Features of four entities at two times: a row at a time, and all together as for many."""
    rows = [("AA", "JFK"), ("AA", "EWR"), ("ÜÄ", "LGA"), ("none", "none")]
    requests = pl.DataFrame(
        {
            "distance": [0.0] * 8,
            "carrier": [carrier for carrier, _ in rows] * 2,
            "passenger": ["p"] * 8,
            "airport": [airport for _, airport in rows] * 2,
            "departs": pl.Series(
                [START + timedelta(minutes=130)] * 4 + [START + timedelta(minutes=420)] * 4,
                dtype=pl.Datetime("us", "UTC"),
            ),
        }
    ).to_arrow()
    reader = FeatureReader(SET, store)
    names = [column.name for view in SET.views for column in view.columns]
    alone = pa.concat_tables([reader.read(requests.slice(i, 1), 0).select(names) for i in range(8)])
    together = reader.read(pa.concat_tables([requests] * 4), 0).select(names).slice(0, 8)
    values = [[str(value) for value in row.values()] for row in together.to_pylist()]
    assert [[str(value) for value in row.values()] for row in alone.to_pylist()] == values
    return values


def test_keys_are_unchanged() -> None:
    prefix = state_prefix(samples.PAIR)
    golden(
        "online_keys",
        {
            "prefixes": [state_prefix(view).decode() for view in (samples.VIEW, samples.PAIR)],
            "of one column": [key.hex() for key in state_keys(b"p/", [["AA", "ÜÄ", ""]])],
            "of two columns": [key.hex() for key in state_keys(b"p/", [["a", "ab"], ["bc", "c"]])],
            "alone": state_key(prefix, ("AA", "JFK")).hex(),
            "too long": state_key(prefix, ("x" * 600,)).hex(),
        },
    )


def _fill(store: LmdbStore) -> None:
    end = _us(START + timedelta(days=1))
    for view in (samples.VIEW, samples.PAIR):
        materialize(store, view, _events().head(4), end)
        push(store, view, _events().tail(2), producer="log", position=7)


def test_states_are_unchanged_and_read(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "written")
    _fill(store)
    golden("online_states", {"stored": _stored(store), "values": _values(store)})


def test_stored_states_are_read_and_continued(tmp_path: Path) -> None:
    states = json.loads((DATA / "online_states.json").read_text())
    store = LmdbStore(tmp_path / "kept")
    store.put_many({bytes.fromhex(key): bytes.fromhex(value) for key, value in states["stored"].items()})
    assert _values(store) == states["values"]
    view: FeatureView = samples.VIEW
    assert push(store, view, _events().tail(1), producer="log", position=7) == 0, "this position is known"
    assert push(store, view, _events().tail(1), producer="log", position=8) == 1


def test_layout_consists_of_little_endian_words() -> None:
    assert np.array([1], np.int64).tobytes() == b"\x01" + bytes(7)
