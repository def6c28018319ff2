"""Landing: sources become Iceberg tables, bad rows go to quarantine, no row is landed twice.

A block is checked, and its personal data hashed or dropped, by the task that reads it: what is personal never leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import ray
import ray.data
from ray.data.expressions import col
from ray.exceptions import RayTaskError

from cluster.errors import DataError, RayloopError
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.definitions import Column
from features.sources.erasure_registry import ErasureRegistry
from features.sources.pseudonyms import load_pseudonym_key, needs_key
from features.sources.readers import SourceReader, read_error
from features.sources.source import Source
from features.sources.validation import (
    RAW,
    REASON,
    count_reasons,
    deduplicate,
    exclude_known,
    quarantine_rows,
    staleness,
    validate_rows,
)
from features.types import arrow_type

QUARANTINE = "quarantine"


class IngestionResult(NamedTuple):
    """What became of a source: its table, new and known rows, and how many of those ``put_aside`` had each reason.

    ``newest`` is when the newest row was known; ``stale`` says, in a sentence, that this is too long ago.
    """

    snapshot: Snapshot
    new_rows: int
    known_rows: int
    quarantined_rows: int
    quarantine_reasons: dict[str, int]
    newest_known_at: datetime | None = None
    staleness: str = ""


def ingest(source: Source, tables: Tables, namespace: str, settings: Settings, now: datetime) -> IngestionResult:
    """Check, sort and append the rows of ``source`` that its table does not hold yet.

    Run again, it adds only what is new. Raises DataError for a missing column, an empty source, or a stale one that is
    to be refused; what was read is landed by then.
    """
    table = f"{namespace}.{source.name}"
    rows = _judge(source, tables, namespace, settings)
    bad = rows.filter(expr=col(REASON).is_not_null())
    # Made before it is written: Ray widens the table by the columns that go into the writing task, dropped there or not.
    good = rows.filter(expr=col(REASON).is_null()).drop_columns([REASON, RAW]).materialize()
    added, aside = good.count(), _quarantine(source, pl.DataFrame(_rows(bad, source)), tables, namespace)
    reasons = count_reasons(aside)
    if added:
        snapshot = tables.write(table, good, columns_schema(source.stored_columns))
    elif (latest := tables.latest(table)) is not None:
        snapshot = latest
    else:
        why = "; ".join(f"{n} rows: {reason}" for reason, n in reasons.items()) or "it is empty"
        raise DataError(f"source {source.name!r} gave no usable row ({why})", "check what its read function returns")
    newest = tables.latest_timestamp(table, source.known_at)
    stale = staleness(source, newest, now)
    if stale and source.stale == "refuse":
        raise DataError(stale, "mend what feeds it, or declare stale='warn'")
    return IngestionResult(snapshot, added, snapshot.rows - added, len(aside), reasons, newest, stale)


def default_parallelism() -> int:
    """How many blocks to work on at once: enough to use the cores, few enough not to start a worker process for each."""
    resources: dict[str, float] = ray.cluster_resources()
    return max(2, int(resources.get("CPU", 2)) // 2)


def columns_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Arrow schema of declared columns."""
    return pa.schema([(c.name, arrow_type(c)) for c in columns])


@dataclass(frozen=True)
class _Screen:
    """Judges a block where it is read, and leaves out what is landed already and whom we were asked to forget.

    It carries the path of the key for personal data, never the key.
    """

    source: Source
    settings: Settings
    known_keys: ray.ObjectRef
    forgotten: ErasureRegistry

    def __call__(self, block: pa.Table) -> pa.Table:
        columns = self.source.columns
        names = load_pseudonym_key(self.settings) if needs_key(columns) or self.forgotten.has_keyed_entries else None
        rows = exclude_known(
            self.source, validate_rows(self.source, pl.DataFrame(block), names), ray.get(self.known_keys)
        )
        return _typed(self.source, self.forgotten.drop_erased(rows, names))


def _judge(source: Source, tables: Tables, namespace: str, settings: Settings) -> ray.data.Dataset:
    """One checked Dataset; rows of one key meet in one block, so that repeats are seen."""
    if needs_key(source.columns):
        load_pseudonym_key(settings)  # A key that is missing is told here, not from within a task.
    screen = _Screen(
        source, settings, _present_keys(source, tables, namespace), ErasureRegistry.read(tables, namespace)
    )

    def repeats(block: pa.Table) -> pa.Table:
        return _typed(source, deduplicate(source, pl.DataFrame(block)))

    arguments: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}

    def run() -> ray.data.Dataset:
        # Most rows of a later landing are known; the shuffle need not carry them.
        new = _read(source).map_batches(screen, **arguments)
        shuffled = new.repartition(default_parallelism(), keys=list(source.key))
        found: ray.data.Dataset = shuffled.map_batches(repeats, **arguments).materialize()
        return found

    return _told(source, run)


def _read(source: Source) -> ray.data.Dataset:
    rows = source.open()
    if not isinstance(rows, ray.data.Dataset):
        raise DataError(
            f"source {source.name!r}: its read function gave a {type(rows).__name__}",
            "give a Ray Dataset, such as ray.data.from_arrow(table)",
        )
    names = rows.columns() or []
    if not names:
        raise DataError(f"source {source.name!r} is empty", "check what its read function returns")
    absent = [name for name in source.column_names if name not in names]
    if absent:
        raise DataError(f"source {source.name!r} lacks column {', '.join(absent)}", f"it has {', '.join(names)}")
    return rows.select_columns(source.column_names)


def _told(source: Source, run: Callable[[], ray.data.Dataset]) -> ray.data.Dataset:
    """``run``, whose errors within a task come out with the place that is read."""
    try:
        return run()
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayloopError):
            raise cause from error
        where = source.read.location if isinstance(source.read, SourceReader) else f"source {source.name!r}"
        raise read_error(where, error) from error


def _present_keys(source: Source, tables: Tables, namespace: str) -> ray.ObjectRef:
    table = f"{namespace}.{source.name}"
    empty = columns_schema(tuple(c for c in source.columns if c.name in source.key)).empty_table()
    keys = tables.read(table, columns=source.key) if tables.exists(table) else empty
    return ray.put(pl.DataFrame(keys).select(source.key))


def _judged_schema(source: Source) -> pa.Schema:
    schema = columns_schema(source.stored_columns)
    return schema.append(pa.field(REASON, pa.string())).append(pa.field(RAW, pa.string()))


def _typed(source: Source, rows: pl.DataFrame) -> pa.Table:
    schema = _judged_schema(source)
    return rows.select(schema.names).to_arrow().cast(schema)


def _rows(dataset: ray.data.Dataset, source: Source) -> pa.Table:
    blocks = [b for b in ray.get(dataset.to_arrow_refs()) if b.num_rows]
    schema = _judged_schema(source)
    return pa.concat_tables([b.select(schema.names).cast(schema) for b in blocks]) if blocks else schema.empty_table()


def _quarantine(source: Source, bad: pl.DataFrame, tables: Tables, namespace: str) -> list[str]:
    """Put the rows aside that are not there already; returns the reasons of all."""
    rows = quarantine_rows(source, bad)
    name = f"{namespace}.{QUARANTINE}"
    new = rows
    if tables.exists(name):
        new = rows.join(pl.DataFrame(tables.read(name)), on=["source", "row"], how="anti")
    if new.height:
        text = pa.schema([("source", pa.string()), ("reason", pa.string()), ("row", pa.string())])
        tables.append(name, new.to_arrow().cast(text))
    return rows.get_column("reason").to_list()
