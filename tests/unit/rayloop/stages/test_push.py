"""Events pushed from a file: validated like ingested rows, counted once, available online."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import DataError, ProjectError
from cluster.settings import Settings
from examples.flights.features import features
from examples.flights.project import project
from features.online.feature_reader import FeatureReader
from features.online.layout_upgrade import record_load
from features.online.materialize import watermark_key
from features.online.store import open_store
from features.types import arrow_type
from rayloop.stages.push import push_file
from tests.factories.errors import raises

NOON = datetime(2014, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def flights(minutes: list[float | None]) -> pl.DataFrame:
    count = len(minutes)
    landed = [NOON + timedelta(minutes=i) for i in range(count)]
    return pl.DataFrame({
        "flight_id": [f"flight {i}" for i in range(count)], "carrier": "AA", "origin": "JFK", "dest": "LAX",
        "tailnum": "N1", "distance": 2475.0, "dep_delay": minutes, "arr_delay": minutes,
        "scheduled_at": [NOON - timedelta(hours=6)] * count, "departed_at": [NOON - timedelta(hours=5)] * count,
        "landed_at": landed, "recorded_at": landed,
    })  # fmt: skip


def read(settings: Settings) -> dict:
    when = NOON + timedelta(hours=3)
    row = {"carrier": "AA", "origin": "JFK", "dest": "LAX", "tailnum": "N1", "distance": 2475.0, "scheduled_at": when}
    schema = pa.schema([(c.name, arrow_type(c)) for c in features.request])
    reader = FeatureReader(features, open_store(settings.online_store_uri, project.name))
    return reader.read(pa.Table.from_pylist([row], schema), 0).to_pylist()[0]


@pytest.mark.parametrize("kind", ["parquet", "ndjson", "csv"])
def test_push_file_twice_counts_its_events_once(settings: Settings, tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"events.{kind}"
    getattr(flights([10.0, 20.0, 60.0, 5000.0]), f"write_{kind}")(file)
    pushed = push_file(project, settings, "flights", file)
    assert set(pushed.events.values()) == {3}
    assert pushed.refused == {"dep_delay is outside -120 to 2880": 1, "arr_delay is outside -240 to 2880": 1}
    assert set(push_file(project, settings, "flights", file).events.values()) == {0}
    values = read(settings)
    assert (values["dest_arrivals_6h_mean"], values["dest_arrivals_6h_count"]) == (30.0, 3.0)


def test_push_file_of_csv_parses_like_ingestion(settings: Settings, tmp_path: Path) -> None:
    file, rows = tmp_path / "events.csv", flights([10.0] * 200 + [None]).with_columns(carrier=pl.lit("007"))
    rows.write_csv(file, null_value="NA")
    file.write_text(file.read_text() + file.read_text().splitlines()[-1].replace("NA", "late").replace("200", "201"))
    pushed = push_file(project, settings, "flights", file)
    assert set(pushed.events.values()) == {201}
    assert pushed.refused == {"dep_delay is not a number": 1, "arr_delay is not a number": 1}
    keys = b" ".join(open_store(settings.online_store_uri, project.name).keys(b""))
    assert b"007" in keys


def test_push_file_with_a_future_event_leaves_it_to_ingestion(settings: Settings, tmp_path: Path) -> None:
    file, later = tmp_path / "events.parquet", datetime.now(UTC) + timedelta(days=30)
    flights([10.0, 20.0]).with_columns(landed_at=pl.Series([NOON, later]), recorded_at=later).write_parquet(file)
    pushed = push_file(project, settings, "flights", file)
    assert (pushed.events["dest_arrivals"], pushed.events["tail_departures"]) == (1, 2)


def test_push_file_after_an_upgrade_waits_for_the_first_load(settings: Settings, tmp_path: Path) -> None:
    file, store = tmp_path / "events.parquet", open_store(settings.online_store_uri, project.name)
    flights([10.0]).write_parquet(file)
    for view in project.features.views:
        store.shared.put_many({watermark_key(view): b"1"})
    with raises(DataError, "data.online_state_not_loaded", project="flights"):
        push_file(project, settings, "flights", file)
    for view in project.features.views:
        record_load(store, view)
    assert set(push_file(project, settings, "flights", file).events.values()) == {1}


def test_push_file_of_unknown_source_or_unreadable_file_is_refused(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    flights([1.0]).write_parquet(file)
    with raises(ProjectError, "project.unknown_source", source="trains"):
        push_file(project, settings, "trains", file)
    with raises(DataError, "data.not_an_event_file"):
        push_file(project, settings, "flights", tmp_path / "events.xlsx")
    (tmp_path / "broken.parquet").write_text("nothing of the kind")
    with raises(DataError, "data.source_unreadable"):
        push_file(project, settings, "flights", tmp_path / "broken.parquet")
