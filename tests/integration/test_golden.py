"""What only a running cluster shows: tables that Ray writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import ray
import ray.data

from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.sources.ingestion import QUARANTINE, ingest
from features.sources.source import Source
from tests.factories.golden import samples
from tests.factories.golden.files import columns, golden

pytestmark = pytest.mark.cluster


def test_landed_tables_are_unchanged(cluster: Settings, tmp_path: Path) -> None:
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "carrier": ["AA", "UA", None],
            "distance": ["1.5", "far", "2"],
            "departs": pl.Series([moment] * 3, dtype=pl.Datetime("us", "UTC")),
        }
    )
    source = Source(
        name="trips",
        read=lambda: ray.data.from_arrow(rows.to_arrow()),
        key=("carrier",),
        event_time="departs",
        known_at="departs",
        columns=samples.REQUEST[:3],
    )
    tables = Tables(cluster)
    landed = ingest(source, tables, "goldens", cluster, datetime.now(UTC))
    assert (landed.new_rows, landed.quarantined_rows) == (1, 2)
    golden(
        "tables_landed",
        {name: columns(tables.read(f"goldens.{name}").schema) for name in ("trips", QUARANTINE)},
    )
