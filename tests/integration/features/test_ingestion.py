"""Ingestion on Ray: new rows are added once, invalid rows are quarantined, and no row is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
import ray.data

from cluster.errors import DataError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.builders import category, dropped, hashed, number, timestamp
from features.sources import ingestion
from features.sources.erasure_registry import ERASURE_TABLE, record_erasure
from features.sources.ingestion import QUARANTINE, IngestionResult, ingest
from features.sources.pseudonyms import load_pseudonym_key
from features.sources.source import Source
from features.types import INSTANT, KNOWN_FROM
from tests.factories.errors import raises

START = datetime(2024, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.cluster


def visits(rows: int, **changes: object) -> pl.DataFrame:
    at = [START + timedelta(minutes=i) for i in range(rows)]
    whole = {"id": [f"v{i}" for i in range(rows)], "spent": [float(i % 90) for i in range(rows)], "at": at, "known": at}
    return pl.DataFrame(whole | changes)


def source(frame: pl.DataFrame, **changes: object) -> Source:
    declared = {
        "name": "visits",
        "key": ("id",),
        "columns": (*category("id"), *number("spent"), *timestamp("at", "known")),
        "event_time": "at",
        "known_at": "known",
        "ranges": {"spent": (0, 100)},
        "read": lambda: ray.data.from_arrow(frame.to_arrow()),
    }
    return Source(**{**declared, **changes})


def put(visits: Source, tables: Tables, shop: str, settings: Settings | None = None) -> IngestionResult:
    return ingest(visits, tables, shop, settings or Settings(), START + timedelta(days=1))


@pytest.fixture
def tables(cluster: Settings) -> Tables:
    return Tables(cluster)


@pytest.fixture
def shop(tables: Tables) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"shop{uuid4().hex[:8]}"
    yield name
    for table in ("visits", QUARANTINE, ERASURE_TABLE):
        tables.drop(f"{name}.{table}")


def test_ingest_again_adds_only_new_rows(tables: Tables, shop: str) -> None:
    first = put(source(visits(200)), tables, shop)
    assert (first.new_rows, first.known_rows, first.quarantine_reasons) == (200, 0, {})
    again = put(source(visits(200)), tables, shop)
    assert (again.new_rows, again.known_rows, again.snapshot) == (0, 200, first.snapshot)
    snapshot = put(source(visits(250)), tables, shop)
    assert (snapshot.new_rows, snapshot.known_rows) == (50, 200)
    ids = tables.read(f"{shop}.visits")["id"].to_pylist()
    assert sorted(ids) == sorted(f"v{i}" for i in range(250))


@pytest.mark.parametrize("shuffle_from", [0, ingestion.SHUFFLE_FROM_BYTES])
def test_ingest_of_repeated_keys_keeps_the_versions_of_each(
    tables: Tables, shop: str, shuffle_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "SHUFFLE_FROM_BYTES", shuffle_from)
    # One process for each block of a shuffle.
    monkeypatch.setattr(ingestion, "default_parallelism", lambda: 2)
    whole = visits(60)
    later = whole.with_columns(pl.col("known") + timedelta(days=1), spent=pl.lit(99.0))
    same = whole.with_columns(spent=pl.lit(98.0))
    blocks = [part.to_arrow() for frame in (later, whole, same) for part in frame.iter_slices(20)]
    # Beside a newer version in the table, a row that repeats an older one's time comes too late.
    late = "known is before that of the row with the same id"
    for step, new, corrected, known, reason in ((1, 60, 60, 0, "repeats the key id"), (-1, 0, 0, 120, late)):
        landed = put(source(whole, read=lambda step=step: ray.data.from_arrow(blocks[::step])), tables, shop)
        assert (landed.new_rows, landed.corrected_rows, landed.known_rows) == (new, corrected, known)
        assert landed.quarantine_reasons == {reason: 60}
    rows = pl.DataFrame(tables.read(f"{shop}.visits")).sort("at", KNOWN_FROM)
    first, versions = (rows.filter(pl.col(KNOWN_FROM).is_null() == empty).drop(KNOWN_FROM) for empty in (True, False))
    # Of rows with one known-at time either counts, and always the same one.
    either = pl.when(first.get_column("spent") == 98.0).then(98.0).otherwise("spent").alias("spent")
    for frame, expected in ((first, whole.with_columns(either)), (versions, later)):
        assert frame.equals(expected.select(frame.columns).cast(frame.schema))


def test_ingest_of_corrections_and_late_labels_lands_each_once(tables: Tables, shop: str) -> None:
    late = visits(50, spent=[None if i < 5 else float(i) for i in range(50)])
    put(source(late), tables, shop)
    fixed = late.with_columns(spent=pl.when(pl.col("id").is_in(["v1", "v7"])).then(66.0).otherwise("spent"))
    for corrected in (2, 0):
        landed = put(source(fixed), tables, shop)
        assert (landed.new_rows, landed.corrected_rows, landed.snapshot.rows) == (0, corrected, 52)
    rows = pl.DataFrame(tables.read(f"{shop}.visits")).filter(pl.col(KNOWN_FROM).is_not_null())
    assert sorted(rows.select("id", "spent", KNOWN_FROM).rows()) == [
        ("v1", 66.0, START + timedelta(days=1)), ("v7", 66.0, START + timedelta(days=1)),
    ]  # fmt: skip


def test_ingest_into_a_table_of_the_release_before_adds_versions(tables: Tables, shop: str) -> None:
    tables.append(f"{shop}.visits", visits(20).with_columns(pl.col("at", "known").cast(INSTANT)).to_arrow())
    landed = put(source(visits(25, spent=[0.5, *(float(i % 90) for i in range(1, 25))])), tables, shop)
    assert (landed.new_rows, landed.corrected_rows, landed.known_rows) == (5, 1, 20)


def test_ingest_quarantines_invalid_rows_once(tables: Tables, shop: str) -> None:
    spoiled = visits(50, spent=[-1.0 if i == 7 else None if i == 8 else float(i) for i in range(50)])
    for _ in range(2):
        landed = put(source(spoiled), tables, shop)
        assert landed.quarantine_reasons == {"spent is outside 0 to 100": 1}
    aside = tables.read(f"{shop}.{QUARANTINE}").to_pylist()
    assert [(row["source"], row["reason"]) for row in aside] == [("visits", "spent is outside 0 to 100")]
    assert '"v7"' in aside[0]["row"]
    assert tables.read(f"{shop}.visits").num_rows == 49


@pytest.mark.parametrize(
    ("frame", "code", "fields"),
    [
        (visits(0), "data.source_without_valid_rows", {"reasons": {}}),
        (visits(5).drop("spent"), "data.missing_columns", {"columns": ["spent"]}),
        (
            visits(3, spent=[500.0, 500.0, 500.0]),
            "data.source_without_valid_rows",
            {"reasons": {"spent is outside 0 to 100": 3}},
        ),
    ],
)
def test_ingest_of_source_without_valid_rows_is_refused(
    tables: Tables, shop: str, frame: pl.DataFrame, code: str, fields: dict
) -> None:
    with raises(DataError, code, **fields):
        put(source(frame), tables, shop)
    assert not tables.exists(f"{shop}.visits") or tables.read(f"{shop}.visits").num_rows == 0


def test_ingest_hashes_or_drops_personal_data(tables: Tables, shop: str, cluster: Settings, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s" * 64)
    settings = cluster.model_copy(update={"personal_key_file": str(tmp_path / "key")})
    names = load_pseudonym_key(settings)
    frame = visits(20, spent=[float(i * 10) for i in range(20)]).with_columns(pl.format("{}@home", "id").alias("mail"))
    columns = (*hashed(*category("id")), *number("spent"), *dropped(*category("mail")), *timestamp("at", "known"))
    private = source(frame, columns=columns, patterns={"mail": ".*@home"})
    landed = put(private, tables, shop, settings)
    assert (landed.new_rows, landed.quarantined_rows) == (11, 9)
    there = tables.read(f"{shop}.visits")
    assert there.column_names == ["id", "spent", "at", "known", KNOWN_FROM]
    assert sorted(there["id"].to_pylist()) == sorted(names.token(f"v{i}") for i in range(11))
    aside = str(tables.read(f"{shop}.{QUARANTINE}").to_pylist())
    assert names.token("v11") in aside
    assert "@home" not in aside
    assert "v11" not in aside
    assert put(private, tables, shop, settings).new_rows == 0


def test_ingest_leaves_out_erased_entities(tables: Tables, shop: str) -> None:
    record_erasure(tables, shop, {"id": "v3"}, None, START)
    landed = put(source(visits(5)), tables, shop)
    assert landed.new_rows == 4
    assert "v3" not in tables.read(f"{shop}.visits")["id"].to_pylist()


def test_ingest_of_stale_source_warns_or_refuses(tables: Tables, shop: str) -> None:
    old = visits(5)
    assert put(source(old, fresh_within=timedelta(days=2)), tables, shop).staleness == ""
    landed = put(source(old, fresh_within=timedelta(hours=1)), tables, shop)
    assert landed.staleness
    newest = START + timedelta(minutes=4)
    with raises(DataError, "data.source_stale", source="visits", newest=newest):
        put(source(old, fresh_within=timedelta(hours=1), stale="refuse"), tables, shop)
