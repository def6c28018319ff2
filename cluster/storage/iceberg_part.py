"""Data files of a snapshot, which tasks read independently, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask
from pyiceberg.table.metadata import TableMetadata

from cluster.errors import DataError
from cluster.storage.parquet import open_parquet, read_row_groups


@dataclass(frozen=True)
class IcebergPart:
    """One data file of a snapshot; rows that were deleted since are left out."""

    metadata: TableMetadata
    io: FileIO
    schema: Schema
    task: FileScanTask

    @property
    def rows(self) -> int:
        """Rows of the file, including deleted ones."""
        return self.task.file.record_count

    @property
    def path(self) -> str:
        """Where the file is; another file never has its path."""
        return self.task.file.file_path

    def count_present(self, column: str) -> int:
        """Return in how many rows a column is not null, by the file's statistics: 0 if the file is older than it."""
        field = self.schema.find_field(column).field_id
        nulls = (self.task.file.null_value_counts or {}).get(field)
        return 0 if nulls is None else self.rows - nulls

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Read all rows at once."""
        selection = self.schema.select(*columns)
        whole = ArrowScan(self.metadata, self.io, selection, AlwaysTrue()).to_table([self.task])
        return whole.select(list(columns))

    def read(self, columns: Sequence[str], dictionary_columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Read the rows.

        A file with the table's columns and without deleted rows is read ``READ_ROWS`` at a time, like any Parquet file;
        others by pyiceberg, which reads far ahead. Raises DataError for a damaged file.
        """
        selection = self.schema.select(*columns)
        try:
            is_plain = self.task.file.file_format == FileFormat.PARQUET and not self.task.delete_files
            yield from (self._read_row_groups(selection, dictionary_columns) if is_plain else self._scan(selection))
        except (pa.ArrowException, OSError) as error:
            path = self.task.file.file_path
            raise DataError("data.unreadable_file", path=path, reason=str(error).splitlines()[0]) from error

    def _read_row_groups(self, selection: Schema, dictionary_columns: Sequence[str]) -> Iterator[pa.Table]:
        with (
            self.io.new_input(self.task.file.file_path).open() as stored,
            open_parquet(stored, dictionary_columns) as file,
        ):
            if _has_columns(file.schema_arrow, selection):
                arrow = arrow_schema(selection)
                yield from read_row_groups(file, arrow, arrow.names, range(file.num_row_groups))
            else:
                yield from self._scan(selection)

    def _scan(self, selection: Schema) -> Iterator[pa.Table]:
        schema = arrow_schema(selection)
        for batch in ArrowScan(self.metadata, self.io, selection, AlwaysTrue()).to_record_batches([self.task]):
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def arrow_schema(schema: Schema) -> pa.Schema:
    """Convert a table's schema to Arrow."""
    return schema_to_pyarrow(schema, include_field_ids=False)


def _has_columns(physical: pa.Schema, selection: Schema) -> bool:
    """Whether a data file has the columns of ``selection`` with the same names, ids and types."""
    return all(
        field.name in physical.names and _is(physical.field(field.name), field.field_id, arrow.type)
        for field, arrow in zip(selection.fields, arrow_schema(selection), strict=True)
    )


def _is(physical: pa.Field, number: int, kind: pa.DataType) -> bool:
    """Whether a column of a data file is the field with that id; string and large_string are one type."""
    values = physical.type.value_type if pa.types.is_dictionary(physical.type) else physical.type
    same = values == kind or (pa.types.is_string(values) and pa.types.is_large_string(kind))
    return same and (physical.metadata or {}).get(b"PARQUET:field_id") == str(number).encode()
