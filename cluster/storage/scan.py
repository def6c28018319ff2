"""Split a table into parts that one task each reads, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.dataset as ds

from cluster.errors import DataError
from cluster.storage.parquet import READ_ROWS, ParquetPart
from cluster.values import Snapshot

# A task that reads Parquet needs no Iceberg, and would wait for its import.
if TYPE_CHECKING:
    from cluster.storage.tables import Tables

MAX_PART_ROWS = 1 << 18
"""Rows of a part. What is lost with a task, and waited for at the end, must not grow with the table."""


_PARTS_A_CPU = 4


class ScanPart(Protocol):
    """Some rows of a table."""

    @property
    def rows(self) -> int: ...

    def read(self, columns: Sequence[str], dictionary_columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """The rows, at most ``READ_ROWS`` at a time from a Parquet file.

        Columns of text that are named in ``coded`` come as a dictionary and codes if the file can be read so.
        """
        ...


class ScanPlan(NamedTuple):
    """A table as parts, those of Parquet in its order; ``name`` says which one it is, its snapshot included."""

    name: str
    schema: pa.Schema
    parts: Sequence[ScanPart]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def plan_scan(table: str, tables: Tables, cpus: int) -> ScanPlan:
    """Cut a Parquet file, a folder of them, or a table of the catalog ("namespace.table", "namespace.table@snapshot").

    Raises DataError when ``table`` is none of these.
    """
    if Path(table).exists():
        return plan_parquet_scan(table, cpus)
    if "/" in table or "." not in table:
        raise DataError(f"no table at {table}", "give a Parquet file, a folder of them, or a table of the catalog")
    return _cut_snapshot(_snapshot(table, tables), tables)


def plan_parquet_scan(path: str, cpus: int) -> ScanPlan:
    """Cut by row groups, so that a single large file keeps every core busy. Raises DataError when none is Parquet."""
    try:
        dataset = ds.dataset(path, format="parquet", partitioning="hive")
        fragments = list(dataset.get_fragments())
        rows = sum(fragment.count_rows() for fragment in fragments)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if not fragments:
        raise DataError(f"{path} holds no Parquet file", "give a Parquet file or a folder of them")
    size = min(MAX_PART_ROWS, max(READ_ROWS, rows // (cpus * _PARTS_A_CPU)))
    return ScanPlan(path, dataset.schema, [p for f in fragments for p in _cut_file(f, dataset.schema, size)])


def _cut_file(fragment: ds.ParquetFileFragment, schema: pa.Schema, size: int) -> Iterator[ParquetPart]:
    counts = [group.num_rows for group in fragment.row_groups]
    for start, end in pairwise(_ends(counts, size)):
        where = fragment.path, fragment.filesystem, fragment.partition_expression
        yield ParquetPart(*where, range(start, end), schema, sum(counts[start:end]))


def _ends(counts: Sequence[int], size: int) -> list[int]:
    """Where runs of row groups of at least ``size`` rows begin and end."""
    ends, rows = [0], 0
    for i, count in enumerate(counts):
        rows += count
        if rows >= size or i == len(counts) - 1:
            ends.append(i + 1)
            rows = 0
    return ends


def _snapshot(table: str, tables: Tables) -> Snapshot:
    name, at, number = table.partition("@")
    newest = tables.latest(name)
    if newest is None:
        raise DataError(f"no table at {name}", "give a Parquet file, a folder of them, or a table of the catalog")
    if at and not number.isdigit():
        raise DataError(f"{number!r} is no snapshot of {name}", f"the newest is {newest.id}")
    return newest.model_copy(update={"id": int(number)}) if at else newest


def _cut_snapshot(snapshot: Snapshot, tables: Tables) -> ScanPlan:
    schema, parts = tables.parts(snapshot)
    return ScanPlan(f"{snapshot.table}@{snapshot.id}", schema, parts)
