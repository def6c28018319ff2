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
from features.online.keys import project_prefix, state_key, state_keys, state_prefix
from features.online.layout_upgrade import ServingStates, record_load
from features.online.lmdb_store import LmdbStore
from features.online.materialize import materialize, push
from features.online.store import OnlineStore, ProjectStore, StateReader
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


def _stored(store: OnlineStore) -> dict[str, str]:
    keys = sorted(store.keys(b""))
    return {key.hex(): value.hex() for key, value in zip(keys, store.get_many(keys), strict=True) if value is not None}


def _values(store: StateReader) -> list[list[str]]:
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


def test_project_prefixes_are_unchanged() -> None:
    golden("online_projects", {name: project_prefix(name).hex() for name in ("shop", "1:a/", "", "Ü", "x" * 40)})


def _fill(store: OnlineStore) -> None:
    end = _us(START + timedelta(days=1))
    for view in (samples.VIEW, samples.PAIR):
        materialize(store, view, _events().head(4), end)
        push(store, view, _events().tail(2), producer="log", position=7)


def _kept(name: str, folder: Path) -> tuple[LmdbStore, list[list[str]]]:
    """A store with the keys and states of a golden file, and the values that they must give."""
    states = json.loads((DATA / f"{name}.json").read_text())
    store = LmdbStore(folder)
    store.put_many({bytes.fromhex(key): bytes.fromhex(value) for key, value in states["stored"].items()})
    return store, states["values"]


def test_states_are_unchanged_and_read(tmp_path: Path) -> None:
    shared = LmdbStore(tmp_path / "written")
    store = ProjectStore(shared, "shop")
    _fill(store)
    golden("online_project_states", {"stored": _stored(shared), "values": _values(store)})


def test_states_of_projects_are_those_of_release_0_1_with_a_prefix(tmp_path: Path) -> None:
    """``online_states.json`` is what rayloop 0.1 wrote; nothing writes it today."""
    store, _ = _kept("online_project_states", tmp_path / "new")
    old, _ = _kept("online_states", tmp_path / "old")
    assert _stored(old).items() <= _stored(ProjectStore(store, "shop")).items()


def test_states_of_release_0_1_are_read_until_the_project_has_loaded_its_own(tmp_path: Path) -> None:
    shared, values = _kept("online_states", tmp_path / "kept")
    own = ProjectStore(shared, "shop")
    served = ServingStates(own, SET.views)
    assert _values(served) == values
    _fill(own)
    for view in SET.views:
        record_load(own, view)
    assert _values(served) == values
    shared.delete(key for key in shared.keys(b"") if not key.startswith(own.prefix))
    assert _values(served) == values


def test_stored_states_are_read_and_continued(tmp_path: Path) -> None:
    shared, values = _kept("online_project_states", tmp_path / "kept")
    store = ProjectStore(shared, "shop")
    assert _values(store) == values
    view: FeatureView = samples.VIEW
    assert push(store, view, _events().tail(1), producer="log", position=7) == 0, "this position is known"
    assert push(store, view, _events().tail(1), producer="log", position=8) == 1


def test_layout_consists_of_little_endian_words() -> None:
    assert np.array([1], np.int64).tobytes() == b"\x01" + bytes(7)
