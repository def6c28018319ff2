"""Ingestion: sources become Iceberg tables, invalid rows go to quarantine, and no row is ingested twice.

A row that the table has with other values is a further version of it (features/sources/row_versions.py).

The task that reads a block also validates it and hashes or drops its personal data, so personal data never leaves the
task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import ray
import ray.data
from ray.data.dataset import MaterializedDataset
from ray.data.expressions import col
from ray.exceptions import RayTaskError

from cluster.errors import DataError, RayloopError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.definitions import Column
from features.sources import landing, validation
from features.sources.erasure_registry import ErasureRegistry
from features.sources.pseudonyms import load_pseudonym_key, needs_key
from features.sources.readers import read_error
from features.sources.row_versions import KnownRows, fingerprint_columns
from features.sources.source import Source
from features.sources.stored_rows import count_corrections, last_ingestion, record_ingestion, stored_values
from features.sources.validation import RAW, REASON
from features.types import KNOWN_FROM, KNOWN_FROM_TYPE, arrow_type

QUARANTINE = "quarantine"
SHUFFLE_FROM_BYTES = 128 * 1024**2
"""Below this size, new rows are grouped by key in one task: starting the actors of a shuffle would take longer."""

WHOLE_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
"""Arguments of ``map_batches`` that pass blocks on as they are, as Arrow tables."""


class IngestionResult(NamedTuple):
    """What an ingestion did."""

    snapshot: Snapshot
    """The table afterward."""
    new_rows: int
    """Rows with new keys."""
    known_rows: int
    """Rows that the table had before, with all their versions."""
    quarantined_rows: int
    quarantine_reasons: dict[str, int]
    """Quarantined rows by reason; a row may have several reasons."""
    staleness: str = ""
    """A sentence that says how stale the source is; empty when it is fresh."""
    corrected_rows: int = 0
    """Further versions of rows."""


def ingest(source: Source, tables: Tables, namespace: str, settings: Settings, now: datetime) -> IngestionResult:
    """Validate the rows of ``source`` and append those that its table does not have yet, or has with other values.

    A second run adds only what is new.

    Args:
        source: The source.
        tables: The catalog.
        namespace: Name of the project, whose tables share it.
        settings: Where the key for hashed columns is.
        now: The current time: from when corrections are known whose source does not say, and to check for staleness.

    Raises:
        DataError: A column is missing, the source is empty, or it is stale and declared ``stale="refuse"``. In the
            last case, the rows are still ingested.
        SettingsError: A column must be hashed, and there is no usable key.
    """
    table = f"{namespace}.{source.name}"
    before, previous = tables.latest(table), last_ingestion(tables, table)
    if before is not None:
        # Before the rows are read: what is read later is not known earlier.
        record_ingestion(tables, table, _stored_schema(source), source.key, now)
    known = _known_rows(source, tables, before)
    rows = _validated_rows(source, tables, namespace, settings, known)
    # Materialized before it is written: Ray widens the table by the columns that go into the writing task, even those
    # that are dropped there.
    good = rows.filter(expr=col(REASON).is_null()).drop_columns([REASON, RAW]).materialize()
    others = pl.DataFrame(_collect(rows.filter(expr=col(REASON).is_not_null()), source))
    versions, bad = landing.decide(source, others, known, now, previous)
    appended, quarantined = good.count() + versions.height, _quarantine(source, bad, tables, namespace)
    reasons = validation.count_reasons(quarantined)
    if appended:
        snapshot = _append(source, tables, before, table, good, versions, now)
    elif before is not None:
        snapshot = before
    else:
        why = "; ".join(f"{n} rows: {reason}" for reason, n in reasons.items()) or "it is empty"
        raise DataError("data.source_without_valid_rows", source=source.name, reasons=reasons, why=why)
    newest = tables.latest_timestamp(table, source.known_at)
    stale = validation.staleness(source, newest, now)
    if stale and source.stale == "refuse":
        raise DataError("data.source_stale", source=source.name, staleness=stale, newest=newest)
    corrected = count_corrections(tables, snapshot) - (count_corrections(tables, before) if before else 0)
    known_rows = snapshot.rows - appended
    return IngestionResult(snapshot, appended - corrected, known_rows, len(quarantined), reasons, stale, corrected)


def _append(
    source: Source,
    tables: Tables,
    before: Snapshot | None,
    table: str,
    good: ray.data.Dataset,
    versions: pl.DataFrame,
    now: datetime,
) -> Snapshot:
    schema = _stored_schema(source)
    if before is None:
        record_ingestion(tables, table, schema, source.key, now)
    if versions.height:
        further = ray.data.from_arrow(versions.select(schema.names).to_arrow().cast(schema))
        good = good.union(further) if good.count() else further
    return tables.write(table, good, schema, _key_after(before))


def default_parallelism() -> int:
    """Number of blocks to process at once: half the CPUs of the cluster, at least 2.

    That is enough to use the cores, and few enough not to start a worker process for each.
    """
    return max(2, int(ray.cluster_resources().get("CPU", 2)) // 2)


def columns_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Return the Arrow schema of declared columns."""
    return pa.schema([(c.name, arrow_type(c)) for c in columns])


@dataclass(frozen=True)
class _BlockValidator:
    """Validates a block where it is read; leaves out known rows and those of erased entities.

    When pickled, it contains the path of the key for personal data, never the key.
    """

    source: Source
    settings: Settings
    known_rows: ray.ObjectRef[Any]
    erasures: ErasureRegistry

    def __call__(self, block: pa.Table) -> pa.Table:
        hashes = needs_key(self.source.columns) or self.erasures.has_keyed_entries
        key = load_pseudonym_key(self.settings) if hashes else None
        rows = landing.check_block(self.source, pl.DataFrame(block), ray.get(self.known_rows), key)
        return _to_arrow_table(self.source, self.erasures.drop_erased(rows, key))


def _validated_rows(
    source: Source, tables: Tables, namespace: str, settings: Settings, known: KnownRows
) -> ray.data.Dataset:
    """The validated rows; all rows of one key are in one block, so that repeated keys are found."""
    if needs_key(source.columns):
        load_pseudonym_key(settings)  # A missing key fails here, and not inside a task.
    erasures = ErasureRegistry.read(tables, namespace)
    validator = _BlockValidator(source, settings, ray.put(known), erasures)

    def drop_repeats(block: pa.Table) -> pa.Table:
        return _to_arrow_table(source, validation.deduplicate(source, pl.DataFrame(block)))

    def run() -> ray.data.Dataset:
        # Later ingestions mostly read known rows; the shuffle must not carry them.
        new = _read(source).map_batches(validator, **WHOLE_BLOCKS).materialize()
        return _group_by_key(new, source.key).map_batches(drop_repeats, **WHOLE_BLOCKS).materialize()

    return _name_location(source, run)


def _group_by_key(rows: MaterializedDataset[Any], key: Sequence[str]) -> ray.data.Dataset:
    """Bring all rows of a key into one block."""
    if rows.size_bytes() < SHUFFLE_FROM_BYTES:
        return rows.repartition(1)
    return rows.repartition(default_parallelism(), keys=list(key))


def _read(source: Source) -> ray.data.Dataset:
    rows = source.reader.open(source.columns)
    if not isinstance(rows, ray.data.Dataset):
        raise DataError("data.not_a_dataset", source=source.name, type=type(rows).__name__)
    names = rows.columns() or []
    if not names:
        raise DataError("data.source_empty", source=source.name)
    source.require_columns(names)
    return rows.select_columns(source.column_names)


def _name_location(source: Source, run: Callable[[], ray.data.Dataset]) -> ray.data.Dataset:
    """Call ``run``; errors inside its tasks name the location that is read."""
    try:
        return run()
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayloopError):
            raise cause from error
        raise read_error(source.reader.location, error) from error


def _known_rows(source: Source, tables: Tables, snapshot: Snapshot | None) -> KnownRows:
    return KnownRows.build(source, stored_values(tables, snapshot, fingerprint_columns(source)) if snapshot else ())


def _stored_schema(source: Source) -> pa.Schema:
    return columns_schema(source.stored_columns).append(pa.field(KNOWN_FROM, KNOWN_FROM_TYPE))


def _validated_schema(source: Source) -> pa.Schema:
    return _stored_schema(source).append(pa.field(REASON, pa.string())).append(pa.field(RAW, pa.string()))


def _to_arrow_table(source: Source, rows: pl.DataFrame) -> pa.Table:
    schema = _validated_schema(source)
    return rows.select(schema.names).to_arrow().cast(schema)


def _collect(dataset: ray.data.Dataset, source: Source) -> pa.Table:
    blocks = [b for b in ray.get(dataset.to_arrow_refs()) if b.num_rows]
    schema = _validated_schema(source)
    return pa.concat_tables([b.select(schema.names).cast(schema) for b in blocks]) if blocks else schema.empty_table()


def _key_after(latest: Snapshot | None) -> str:
    """Key of the rows that a table lacks as it is now: of several appends of what it lacked, one counts."""
    return f"after {latest.id if latest else 'nothing'}"


def _quarantine(source: Source, bad: pl.DataFrame, tables: Tables, namespace: str) -> list[str]:
    """Append the rows that are not quarantined yet; returns the reasons of all."""
    rows = validation.quarantine_rows(source, bad)
    name = f"{namespace}.{QUARANTINE}"
    key, new = _key_after(tables.latest(name)), rows
    if tables.exists(name):
        new = rows.join(pl.DataFrame(tables.read(name)), on=["source", "row"], how="anti")
    if new.height:
        text = pa.schema([("source", pa.string()), ("reason", pa.string()), ("row", pa.string())])
        tables.append(name, new.to_arrow().cast(text), key)
    return rows.get_column("reason").to_list()
