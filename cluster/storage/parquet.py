"""Row groups of Parquet files, read a few rows at a time."""

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
"""Rows that a task holds at a time."""
_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class ParquetPart:
    """Row groups of one Parquet file; ``partition`` says what the names of its folders tell of every row."""

    path: str
    filesystem: FileSystem
    partition: pc.Expression
    groups: range
    schema: pa.Schema
    rows: int

    def read(self, columns: Sequence[str], dictionary_columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """The rows, ``READ_ROWS`` at a time. Raises DataError for a damaged file."""
        told = ds.get_partition_keys(self.partition)
        try:
            with open_parquet(self.path, dictionary_columns, self.filesystem) as file:
                yield from read_row_groups(file, self.schema, columns, self.groups, told)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read: {str(error).splitlines()[0]}") from error


def open_parquet(
    source: Any, dictionary_columns: Sequence[str], filesystem: FileSystem | None = None
) -> pq.ParquetFile:
    """A file, by its path or opened, to be read as a stream; columns of text in ``coded`` as a dictionary and codes.

    Neither Arrow's datasets nor a file that fetches ahead will do: they hold a row group as a whole, of a million rows often.
    """
    metadata = pq.read_metadata(source, filesystem=filesystem)
    held = [name for name in dictionary_columns if name in metadata.schema.names]
    return pq.ParquetFile(
        source, metadata=metadata, read_dictionary=held, pre_buffer=False, buffer_size=_BUFFER_BYTES, filesystem=filesystem
    )  # fmt: skip


def read_row_groups(
    file: pq.ParquetFile,
    schema: pa.Schema,
    columns: Sequence[str],
    groups: Sequence[int],
    constants: Mapping[str, Any] | None = None,
) -> Iterator[pa.Table]:
    """``columns`` of row groups, in the types of ``schema`` but for text that comes as codes, ``READ_ROWS`` rows at a time.

    A column that the file lacks has the value that ``told`` gives it in every row, or null.
    """
    present = [name for name in columns if name in file.schema_arrow.names]
    # Threads of Arrow's own would take the cores of other tasks.
    for batch in file.iter_batches(READ_ROWS, groups, present, use_threads=False):
        yield pa.table({name: _column(batch, schema.field(name), (constants or {}).get(name)) for name in columns})


def _column(batch: pa.RecordBatch, field: pa.Field, otherwise: Any) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.repeat(pa.scalar(otherwise, field.type), batch.num_rows)
    values = batch.column(field.name)
    coded = pa.types.is_dictionary(values.type) and not pa.types.is_dictionary(field.type)
    return values if coded or values.type == field.type else values.cast(field.type)
