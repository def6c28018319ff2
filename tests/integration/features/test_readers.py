"""Equal rows from Parquet, CSV, Iceberg, SQL and Kafka become equal tables; errors name the location."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.builders import category, number, timestamp
from features.sources import readers
from features.sources.ingestion import QUARANTINE, IngestionResult, ingest
from features.sources.readers import SourceReader
from features.sources.source import Source
from features.types import KNOWN_FROM
from tests.factories.errors import raises

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 60
COLUMNS = (*category("id", "zip"), *number("spent"), *timestamp("at", "known"))
pytestmark = pytest.mark.cluster


@pytest.fixture
def visits() -> pl.DataFrame:
    at = [START + timedelta(minutes=i) for i in range(ROWS)]
    spent = [None if i == 3 else i / 7 for i in range(ROWS)]
    return pl.DataFrame({"id": [f"v{i}" for i in range(ROWS)], "zip": "00501", "spent": spent, "at": at, "known": at})


@pytest.fixture
def tables(cluster: Settings) -> Tables:
    return Tables(cluster)


@pytest.fixture
def shop(tables: Tables) -> Iterator[str]:
    name = f"reads{uuid4().hex[:8]}"
    yield name
    for table in tables.table_names(name):
        tables.drop(table)


def written_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("at", "known").dt.to_string("iso:strict"))


def parquet(frame: pl.DataFrame, folder: Path, tables: Tables, shop: str) -> SourceReader:
    for i, part in enumerate(frame.iter_slices(ROWS // 3)):
        part.write_parquet(folder / f"{i}.parquet")
    return readers.parquet(str(folder))


def csv(frame: pl.DataFrame, folder: Path, tables: Tables, shop: str) -> SourceReader:
    written_as_text(frame).write_csv(folder / "visits.csv", separator=";", null_value="NA")
    return readers.csv(str(folder / "visits.csv"), delimiter=";")


def iceberg(frame: pl.DataFrame, folder: Path, tables: Tables, shop: str) -> SourceReader:
    snapshot = tables.append(f"{shop}.elsewhere", frame.to_arrow())
    tables.append(f"{shop}.elsewhere", frame.with_columns(pl.format("later {}", "id").alias("id")).to_arrow())
    return readers.iceberg(f"{shop}.elsewhere", Settings().iceberg, snapshot.id)


def sqlite(frame: pl.DataFrame, folder: Path, tables: Tables, shop: str) -> SourceReader:
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("CREATE TABLE visits (id TEXT, zip TEXT, spent REAL, at TEXT, known TEXT)")
        database.executemany("INSERT INTO visits VALUES (?, ?, ?, ?, ?)", written_as_text(frame).rows())
    database.close()
    return readers.sql("SELECT * FROM visits", f"sqlite:///{folder}/shop.db")


@pytest.fixture
def broker() -> Iterator[Callable[[str, list[bytes]], str]]:
    """librdkafka's own broker in this process, which speaks Kafka's protocol over TCP; gives its address."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": "here", "test.mock.num.brokers": 1, "log_level": 0})

    def send(topic: str, messages: list[bytes]) -> str:
        for message in messages:
            producer.produce(topic, message)
        assert producer.flush(30) == 0
        (one,) = producer.list_topics(timeout=30).brokers.values()
        return f"{one.host}:{one.port}"

    yield send
    producer.close()


def put(read: SourceReader, tables: Tables, shop: str) -> IngestionResult:
    visits = Source(
        "visits", COLUMNS, ("id",), event_time="at", known_at="known", read=read, patterns={"zip": r"\d{5}$"}
    )
    return ingest(visits, tables, shop, Settings(), START)


def assert_same(tables: Tables, shop: str, visits: pl.DataFrame) -> None:
    there = pl.DataFrame(tables.read(f"{shop}.visits")).sort("at")
    assert there.get_column(KNOWN_FROM).is_null().all()
    there = there.drop(KNOWN_FROM)
    assert there.equals(visits.select(there.columns).cast(there.schema))


@pytest.mark.parametrize("make", [parquet, csv, iceberg, sqlite])
def test_ingest_from_any_reader_gives_equal_tables(
    make: Callable, visits: pl.DataFrame, tables: Tables, shop: str, tmp_path: Path
) -> None:
    read = make(visits, tmp_path, tables, shop)
    landed = put(read, tables, shop)
    assert (landed.new_rows, landed.quarantined_rows) == (ROWS, 0)
    assert_same(tables, shop, visits)


def test_ingest_from_kafka_adds_new_messages(broker: Callable, visits: pl.DataFrame, tables: Tables, shop: str) -> None:
    messages = [json.dumps(row).encode() for row in written_as_text(visits).to_dicts()]
    read = readers.kafka("visits", broker("visits", messages[:40]))
    assert put(read, tables, shop).new_rows == 40
    broker("visits", [*messages[40:], b"no JSON", b'{"id": "x", "spent": "much"}'])
    landed = put(read, tables, shop)
    assert (landed.new_rows, landed.known_rows, landed.quarantined_rows) == (20, 40, 2)
    assert_same(tables, shop, visits)
    aside = [row["reason"] for row in tables.read(f"{shop}.{QUARANTINE}").to_pylist()]
    assert any("id is missing" in reason for reason in aside)
    assert any("spent is not a number" in reason for reason in aside)


def test_ingest_from_csv_quarantines_row_with_mistyped_cell(tables: Tables, shop: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "id,zip,spent,at,known\n1,00501,x,2024-01-01,2024-01-01\n2,00501,1,2024-01-01,2024-01-01\n"
    )
    landed = put(readers.csv(str(tmp_path / "a.csv")), tables, shop)
    assert (landed.new_rows, landed.quarantine_reasons) == (1, {"spent is not a number": 1})


@pytest.mark.parametrize(
    ("read", "location"),
    [
        (readers.parquet("/nowhere/at/all"), "Parquet at /nowhere/at/all"),
        (readers.csv("/nowhere/at/all.csv"), "CSV at /nowhere/at/all.csv"),
        (readers.iceberg("no.table", {"type": "sql", "uri": "sqlite:///:memory:"}), "Iceberg table no.table"),
        (readers.sql("SELECT 1", "sqlite:////nowhere/at/all.db"), "SQL at sqlite:////nowhere/at/all.db"),
        (readers.sql("SELECT * FROM nowhere", "sqlite://"), "SQL at sqlite://"),
    ],
)
def test_ingest_from_unreadable_location_names_it(tables: Tables, shop: str, read: SourceReader, location: str) -> None:
    with raises(DataError, "data.source_unreadable", location=location):
        put(read, tables, shop)


def test_sql_reader_hides_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "geheim")
    read = readers.sql("SELECT 1", "postgresql://reader:geheim@db/shop")
    assert "geheim" not in read.location
    with raises(DataError, "data.invalid_database_url"):
        readers.sql("SELECT 1", "geheim")


def test_sql_reader_with_unset_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    with raises(DataError, "data.variable_not_set", variable="SHOP_PASSWORD"):
        readers.sql("SELECT 1", "postgresql://reader:${SHOP_PASSWORD}@db/shop").open(COLUMNS)


def test_ingest_from_failing_function_names_the_source(tables: Tables, shop: str) -> None:
    def fails() -> None:
        raise ValueError("no such drive\nnor such folder")

    with raises(DataError, "data.source_unreadable", location="source 'visits'", cause="ValueError"):
        put(fails, tables, shop)
    with raises(DataError, "data.not_a_dataset", type="list"):
        put(list, tables, shop)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_file_without_key_and_time_gets_both_and_lands_once(
    visits: pl.DataFrame, tmp_path: Path, tables: Tables, shop: str, ending: str
) -> None:
    equal = visits.select("zip", "spent").with_columns(pl.lit(1.0).alias("spent"))
    equal.write_csv(tmp_path / "visits.csv") if ending == "csv" else equal.write_parquet(tmp_path / "visits.parquet")
    reader = readers.csv if ending == "csv" else readers.parquet
    source = Source(
        name="visits",
        key=("place",),
        columns=(*category("place", "zip"), *number("spent"), *timestamp("changed")),
        event_time="changed",
        known_at="changed",
        read=reader(str(tmp_path / f"visits.{ending}"), row_id="place", file_time="changed"),
    )
    results = [ingest(source, tables, shop, Settings(), datetime.now(UTC)) for _ in range(2)]
    assert [(result.new_rows, result.known_rows, result.quarantined_rows) for result in results] == [
        (ROWS, 0, 0),
        (0, ROWS, 0),
    ]
