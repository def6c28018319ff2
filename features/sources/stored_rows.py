"""Rows of a source's table with their versions: which values were known when.

A correction lands as a further row with the same key, and ``KNOWN_FROM`` says from when it is known. Nothing says when
the earlier row ends: that follows from the other rows of its key, so each reader of a table with corrections first
reads the keys and times of these, from the files that have any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

import polars as pl
import pyarrow as pa

from cluster.storage.iceberg_part import IcebergPart
from cluster.storage.tables import Tables
from cluster.values import Snapshot
from features.types import INSTANT, KNOWN_FROM, KNOWN_UNTIL

KEY_PROPERTY = "rayloop.source-key"
"""Property of a source's table: the columns that identify a row, as JSON."""
_INGESTED_PROPERTY = "rayloop.ingested-at"
_STATISTICS_PROPERTY = f"write.metadata.metrics.column.{KNOWN_FROM}"


@dataclass(frozen=True)
class Corrections:
    """The data files of a snapshot that have corrections."""

    key: tuple[str, ...]
    paths: tuple[str, ...]
    parts: tuple[IcebergPart, ...] = field(compare=False, repr=False)

    def rows(self, columns: Sequence[str]) -> pl.DataFrame:
        """Read columns of all corrections, in the order of the table."""
        wanted = list(dict.fromkeys([*columns, KNOWN_FROM]))
        tables = (pl.DataFrame(part.table(wanted)) for part in self.parts)
        return pl.concat([rows.filter(pl.col(KNOWN_FROM).is_not_null()) for rows in tables])


@dataclass(frozen=True)
class StoredPart:
    """A data file of a source's table; its rows have ``KNOWN_FROM`` and ``KNOWN_UNTIL`` if any were corrected."""

    part: IcebergPart
    corrections: Corrections | None

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return self.part.rows

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Read all rows at once."""
        if self.corrections is None:
            return self.part.table(columns)
        return self._with_versions(self.part.table(self._wanted(columns)), columns, self.corrections)

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the rows, a few at a time."""
        for rows in self.part.read(self._wanted(columns)):
            yield rows if self.corrections is None else self._with_versions(rows, columns, self.corrections)

    def _wanted(self, columns: Sequence[str]) -> list[str]:
        if self.corrections is None:
            return list(columns)
        # A file without corrections may be older than the column, and then is read as a whole.
        known = [KNOWN_FROM] if self.part.path in self.corrections.paths else []
        return list(dict.fromkeys([*columns, *self.corrections.key, *known]))

    def _with_versions(self, rows: pa.Table, columns: Sequence[str], corrections: Corrections) -> pa.Table:
        versions = pl.DataFrame(rows)
        if KNOWN_FROM not in versions.columns:
            versions = versions.with_columns(pl.lit(None, INSTANT).alias(KNOWN_FROM))
        on = [*corrections.key, KNOWN_FROM]
        bounded = versions.join(_bounds(corrections), on=on, how="left", nulls_equal=True, maintain_order="left")
        return bounded.select(*columns, KNOWN_FROM, KNOWN_UNTIL).to_arrow()


def stored_parts(tables: Tables, snapshot: Snapshot) -> list[StoredPart]:
    """Return the data files of a snapshot of a source's table. Raises SnapshotNotFound."""
    corrections, parts = find_corrections(tables, snapshot)
    return [StoredPart(part, corrections) for part in parts]


def read_rows(tables: Tables, snapshot: Snapshot, columns: Sequence[str]) -> pl.DataFrame:
    """Return columns of all versions of a snapshot's rows; with corrections, also from and until when they are known.

    Args:
        tables: The catalog.
        snapshot: A snapshot of a source's table.
        columns: Columns to read.

    Raises:
        SnapshotNotFound: The snapshot does not exist.
    """
    parts = stored_parts(tables, snapshot)
    if not parts:
        return pl.DataFrame(tables.parts(snapshot)[0].empty_table().select(list(columns)))
    return pl.concat([pl.DataFrame(part.table(columns)) for part in parts])


def read_newest(tables: Tables, snapshot: Snapshot) -> pl.DataFrame:
    """Return the rows of a snapshot of a source's table, each in its newest version. Raises SnapshotNotFound."""
    columns = [name for name in tables.parts(snapshot)[0].names if name != KNOWN_FROM]
    rows = read_rows(tables, snapshot, columns)
    return rows.filter(pl.col(KNOWN_UNTIL).is_null()).select(columns) if KNOWN_UNTIL in rows.columns else rows


def table_key(tables: Tables, name: str) -> tuple[str, ...]:
    """Return the columns that identify a row of a source's table; none for another table. Raises SnapshotNotFound."""
    return tuple(json.loads(tables.table_properties(name).get(KEY_PROPERTY, "[]")))


def find_corrections(tables: Tables, snapshot: Snapshot) -> tuple[Corrections | None, list[IcebergPart]]:
    """Return the corrections of a snapshot, if any, and all its data files. Raises SnapshotNotFound."""
    schema, parts = tables.parts(snapshot)
    corrected = [part for part in parts if _corrections_in(part, schema)]
    if not corrected:
        return None, parts
    key = table_key(tables, snapshot.table)
    return Corrections(key, tuple(part.path for part in corrected), tuple(corrected)), parts


def stored_values(tables: Tables, snapshot: Snapshot, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield rows of a snapshot of a source's table, with those of the columns that it has.

    Args:
        tables: The catalog.
        snapshot: The snapshot.
        columns: Columns that may be there. ``KNOWN_FROM`` is added for files with corrections.
    """
    schema, parts = tables.parts(snapshot)
    present = [name for name in columns if name in schema.names]
    for part in parts:
        yield pl.DataFrame(part.table([*present, KNOWN_FROM] if _corrections_in(part, schema) else present))


def count_corrections(tables: Tables, snapshot: Snapshot) -> int:
    """Return how many rows of a snapshot are further versions, by the files' statistics."""
    schema, parts = tables.parts(snapshot)
    return sum(_corrections_in(part, schema) for part in parts)


def last_ingestion(tables: Tables, name: str) -> datetime | None:
    """Return when a table's source was last ingested; None when it is not on record."""
    text = tables.table_properties(name).get(_INGESTED_PROPERTY) if tables.exists(name) else None
    return datetime.fromisoformat(text) if text else None


def record_ingestion(tables: Tables, name: str, schema: pa.Schema, key: Sequence[str], at: datetime) -> None:
    """Store in a table which columns identify a row, and when its source is ingested.

    Args:
        tables: The catalog.
        name: Name of the table, which is created when it does not exist.
        schema: Its schema, to create it.
        key: The columns.
        at: The time.
    """
    own = {KEY_PROPERTY: json.dumps(list(key)), _INGESTED_PROPERTY: at.isoformat()}
    tables.set_properties(name, schema, {**own, _STATISTICS_PROPERTY: "counts"})


def add_known_until(versions: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Add ``KNOWN_UNTIL`` to rows that are all versions of their keys, in their order."""
    bounds = _bounds_of(versions.filter(pl.col(KNOWN_FROM).is_not_null()), list(key))
    return versions.join(bounds, on=[*key, KNOWN_FROM], how="left", nulls_equal=True, maintain_order="left")


def _corrections_in(part: IcebergPart, schema: pa.Schema) -> int:
    """Return how many rows of a data file are further versions, by its statistics."""
    return part.count_present(KNOWN_FROM) if KNOWN_FROM in schema.names else 0


@lru_cache(maxsize=4)
def _bounds(corrections: Corrections) -> pl.DataFrame:
    """For each version of a corrected key, by ``KNOWN_FROM``, from when it is replaced."""
    return _bounds_of(corrections.rows(corrections.key), list(corrections.key))


def _bounds_of(corrections: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    later = corrections.select(*key, KNOWN_FROM).cast({KNOWN_FROM: INSTANT}).unique().sort(KNOWN_FROM)
    replaced = later.with_columns(pl.col(KNOWN_FROM).shift(-1).over(key).alias(KNOWN_UNTIL))
    first = later.group_by(key).agg(pl.col(KNOWN_FROM).first().alias(KNOWN_UNTIL))
    return pl.concat([replaced, first.select(*key, pl.lit(None, INSTANT).alias(KNOWN_FROM), KNOWN_UNTIL)])
