"""Read row groups of Parquet files, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from cluster.errors import DataError

READ_ROWS = 65_536
"""Rows that a task has in memory at a time."""
_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class ParquetPart:
    """Row groups of one Parquet file."""

    path: str
    filesystem: FileSystem
    partition: pc.Expression
    """The column values that the names of the file's folders give every row."""
    groups: range
    schema: pa.Schema
    rows: int

    def read(self, columns: Sequence[str], dictionary_columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Read the rows, ``READ_ROWS`` at a time. Raises DataError for a damaged file."""
        constants = ds.get_partition_keys(self.partition)
        try:
            with open_parquet(self.path, dictionary_columns, self.filesystem) as file:
                yield from read_row_groups(file, self.schema, columns, self.groups, constants)
        except (pa.ArrowException, OSError) as error:
            raise DataError("data.unreadable_file", path=self.path, reason=str(error).splitlines()[0]) from error


def open_parquet(
    source: Any, dictionary_columns: Sequence[str], filesystem: FileSystem | None = None
) -> pq.ParquetFile:
    """Open a Parquet file for streaming.

    Arrow's datasets and a file that prefetches keep a whole row group in memory, often a million rows.

    Args:
        source: A path or an open file.
        dictionary_columns: Text columns that are read dictionary-encoded.
        filesystem: Of the path.
    """
    metadata = pq.read_metadata(source, filesystem=filesystem)
    encoded = [name for name in dictionary_columns if name in metadata.schema.names]
    return pq.ParquetFile(
        source, metadata=metadata, read_dictionary=encoded, pre_buffer=False, buffer_size=_BUFFER_BYTES,
        filesystem=filesystem,
    )  # fmt: skip


def read_row_groups(
    file: pq.ParquetFile,
    schema: pa.Schema,
    columns: Sequence[str],
    groups: Sequence[int],
    constants: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """Read row groups, ``READ_ROWS`` rows at a time.

    Args:
        file: The file.
        schema: Types of the columns; dictionary-encoded text stays encoded.
        columns: Columns to read.
        groups: Numbers of the row groups.
        constants: Values of columns that the file lacks; those without a value are null.
    """
    present = [name for name in columns if name in file.schema_arrow.names]
    # Arrow's threads would take the CPUs of other tasks.
    for batch in file.iter_batches(READ_ROWS, groups, present, use_threads=False):
        yield pa.table({name: _column(batch, schema.field(name), (constants or {}).get(name)) for name in columns})


def _column(batch: pa.RecordBatch, field: pa.Field, otherwise: Any) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.repeat(pa.scalar(otherwise, field.type), batch.num_rows)
    values = batch.column(field.name)
    coded = pa.types.is_dictionary(values.type) and not pa.types.is_dictionary(field.type)
    return values if coded or values.type == field.type else values.cast(field.type)
