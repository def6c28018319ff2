"""Plan a scan: split a table into parts, of which a task reads each a few rows at a time."""

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

# A task that reads Parquet does not need Iceberg, whose import takes time.
if TYPE_CHECKING:
    from cluster.storage.tables import Tables

MAX_PART_ROWS = 1 << 18
"""Most rows of a part: the loss with a failed task, and the wait for the last task, do not grow with the table."""
_PARTS_PER_CPU = 4


class ScanPart(Protocol):
    """Some rows of a table."""

    @property
    def rows(self) -> int: ...

    def read(self, columns: Sequence[str], dictionary_columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Read the rows, at most ``READ_ROWS`` at a time from a Parquet file.

        Args:
            columns: Columns to read.
            dictionary_columns: Text columns that are returned dictionary-encoded, when the file allows it.
        """


class ScanPlan(NamedTuple):
    """A table as parts; those of Parquet files are in the order of the rows."""

    name: str
    """The path, or "namespace.table@snapshot"."""
    schema: pa.Schema
    parts: Sequence[ScanPart]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


def plan_scan(table: str, tables: Tables, cpus: int) -> ScanPlan:
    """Plan the scan of a table.

    Args:
        table: A Parquet file, a folder of them, or a table of the catalog: "namespace.table" or
            "namespace.table@snapshot".
        tables: The catalog.
        cpus: CPUs of the cluster; the number of parts grows with it.

    Raises:
        DataError: There is no such table.
    """
    if Path(table).exists():
        return plan_parquet_scan(table, cpus)
    if "/" in table or "." not in table:
        raise DataError("data.table_not_found", table=table)
    snapshot = _snapshot(table, tables)
    return ScanPlan(f"{snapshot.table}@{snapshot.id}", *tables.parts(snapshot))


def plan_parquet_scan(path: str, cpus: int) -> ScanPlan:
    """Plan the scan of Parquet files, by row groups, so that one large file uses every CPU. Raises DataError."""
    try:
        dataset = ds.dataset(path, format="parquet", partitioning="hive")
        fragments = list(dataset.get_fragments())
        rows = sum(fragment.count_rows() for fragment in fragments)
    except pa.ArrowInvalid as error:
        raise DataError("data.not_parquet", path=path, reason=str(error).splitlines()[0]) from error
    if not fragments:
        raise DataError("data.no_parquet_file", path=path)
    size = min(MAX_PART_ROWS, max(READ_ROWS, rows // (cpus * _PARTS_PER_CPU)))
    return ScanPlan(path, dataset.schema, [p for f in fragments for p in _file_parts(f, dataset.schema, size)])


def _file_parts(fragment: ds.ParquetFileFragment, schema: pa.Schema, size: int) -> Iterator[ParquetPart]:
    counts = [group.num_rows for group in fragment.row_groups]
    for start, end in pairwise(row_group_bounds(counts, size)):
        where = fragment.path, fragment.filesystem, fragment.partition_expression
        yield ParquetPart(*where, range(start, end), schema, sum(counts[start:end]))


def row_group_bounds(counts: Sequence[int], size: int) -> list[int]:
    """Return the bounds of runs of row groups, each of at least ``size`` rows where the file has them."""
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
        raise DataError("data.table_not_found", table=name)
    if at and not number.isdigit():
        raise DataError("data.invalid_snapshot", table=name, snapshot=number, newest=newest.id)
    return newest.model_copy(update={"id": int(number)}) if at else newest
