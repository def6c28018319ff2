"""Tables in local files: which files they are, and a bounded sample of their rows, read without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from cluster.errors import DataError

CSV_NULLS = ("", "NA")
"""Cells of a CSV file that mean missing."""
MAX_CELLS = 8_000_000
"""Cells that a sample has at most: less than a second to read and to cast."""
MAX_ROWS = 500_000
"""Rows that a sample has at most."""
MAX_FILES = 100
"""Files, evenly spaced, that a sample of a Parquet table of many files opens."""
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Name of the folder of rows whose value is null."""
_MAX_GROUPS = 32
"""Row groups, evenly spaced, that a sample of a large Parquet table takes rows from."""


@dataclass(frozen=True)
class TableFiles:
    """Files that hold a table."""

    format: Literal["parquet", "csv"]
    paths: tuple[str, ...]
    """Files, folders and URIs."""
    delimiter: str = ","
    """Separator of cells (CSV)."""
    nulls: tuple[str, ...] = CSV_NULLS
    """Cells that mean missing (CSV)."""
    row_id: str = ""
    """Column to add: the file's name and the row's number in it, for a table without a key; empty: none."""
    file_time: str = ""
    """Column to add: when the file was changed, for a table without times; empty: none."""

    @property
    def added_columns(self) -> tuple[str, ...]:
        """Names of the columns that the files do not have."""
        return tuple(name for name in (self.row_id, self.file_time) if name)

    @property
    def is_local(self) -> bool:
        """Whether all paths are of this machine."""
        return not any("://" in path for path in self.paths)

    def parse_options(self) -> arrow_csv.ParseOptions:
        """Return how CSV is parsed."""
        return arrow_csv.ParseOptions(delimiter=self.delimiter)

    def convert_options(self, columns: Sequence[str], **options: Any) -> arrow_csv.ConvertOptions:
        """Return how CSV is converted: these columns to text, so that a bad cell fails its row and not the file."""
        text = dict.fromkeys(columns, pa.string())
        return arrow_csv.ConvertOptions(
            column_types=text, null_values=list(self.nulls), strings_can_be_null=True, **options
        )


class TableSample(NamedTuple):
    """Rows of a table."""

    rows: pl.DataFrame
    columns: tuple[str, ...]
    """Names of all columns of the table."""
    total: int | None
    """Rows of the table; None: it was not read to its end."""
    is_estimated: bool = False
    """Whether ``total`` is an estimate: most files of the table were not opened."""

    @property
    def is_whole(self) -> bool:
        """Whether the sample is the table."""
        return self.total == self.rows.height and not self.is_estimated

    @property
    def weight(self) -> int | None:
        """How many rows of the table a row stands for; None: the rows are the table's first."""
        return None if self.total is None else max(1, round(self.total / max(1, self.rows.height)))


def find_files(files: TableFiles, folder: Path) -> list[Path]:
    """Return the files of a local table.

    Args:
        files: Where the table is.
        folder: What relative paths are relative to.

    Raises:
        DataError: A path does not exist, or holds no file.
    """
    found: list[Path] = []
    for name in files.paths:
        path = folder / name
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_")))
        if not path.is_file() and not inside:
            raise DataError("data.file_not_found", path=str(path))
        found += inside or [path]
    return found


def read_file(files: TableFiles, path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read a file of a table part by part, with the columns to add; cells of CSV are text.

    Args:
        files: The table.
        path: The file.
        columns: Columns to read, of those that the file has.
    """
    wanted = [name for name in columns if name not in files.added_columns]
    parts: Iterator[pa.RecordBatch]
    if files.format == "parquet":
        parts = pq.ParquetFile(path).iter_batches(columns=wanted)
    else:
        parts = _csv_batches(files, path, _read_header(files, path), wanted)
    first = 0
    for part in parts:
        yield _add_columns(files, path, pa.Table.from_batches([part]), first)
        first += part.num_rows


def sample_table(files: TableFiles, folder: Path, columns: Sequence[str] = (), rows: int | None = None) -> TableSample:
    """Read rows of a local table: all of them, or at most ``MAX_CELLS`` cells of ``MAX_ROWS`` rows.

    Of a larger Parquet table, rows of evenly spaced row groups; of a larger CSV table, the first rows. Folders of a
    Parquet table that are called ``column=value`` are columns, as text.

    Args:
        files: Where the table is.
        folder: What relative paths are relative to.
        columns: Columns to read, of those that the table has; empty: all.
        rows: Rows to read at most, in place of ``MAX_ROWS``.

    Returns:
        The sample; cells of CSV are text.

    Raises:
        DataError: A path does not exist, or a file cannot be read.
    """
    paths = find_files(files, folder)
    read = _sample_parquet if files.format == "parquet" else _sample_csv
    try:
        return read(files, paths, columns, MAX_ROWS if rows is None else rows)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        location = ", ".join(files.paths)
        raise DataError(
            "data.source_unreadable", location=location, cause=type(error).__name__, reason=reason
        ) from error


def _sample_parquet(files: TableFiles, paths: list[Path], columns: Sequence[str], most: int) -> TableSample:
    opened = paths[:: -(-len(paths) // MAX_FILES)]
    tables = [(path, pq.ParquetFile(path)) for path in opened]
    schema = tables[0][1].schema_arrow.names
    names = (*schema, *(name for name in _partitions(paths[0]) if name not in schema), *files.added_columns)
    wanted = [name for name in schema if not columns or name in columns]
    rows, limit = sum(table.metadata.num_rows for _, table in tables), min(most, MAX_CELLS // max(1, len(wanted)))
    if rows <= limit:
        parts = [_add_columns(files, path, table.read(columns=wanted), 0) for path, table in tables]
    else:
        groups = [(path, table, group) for path, table in tables for group in range(table.num_row_groups)]
        chosen = groups[:: -(-len(groups) // _MAX_GROUPS)]
        parts = [_first_rows(files, path, table, group, wanted, limit // len(chosen)) for path, table, group in chosen]
    total = rows * len(paths) // len(opened)
    return _sample(files, parts, names, columns, total)._replace(is_estimated=len(opened) < len(paths))


def _first_rows(
    files: TableFiles, path: Path, table: pq.ParquetFile, group: int, columns: list[str], rows: int
) -> pa.Table:
    batch = next(table.iter_batches(batch_size=max(1, rows), row_groups=[group], columns=columns))
    first = sum(table.metadata.row_group(earlier).num_rows for earlier in range(group))
    return _add_columns(files, path, pa.Table.from_batches([batch]), first)


def _sample_csv(files: TableFiles, paths: list[Path], columns: Sequence[str], most: int) -> TableSample:
    header = _read_header(files, paths[0])
    wanted = [name for name in header if not columns or name in columns]
    limit, parts, rows = min(most, MAX_CELLS // max(1, len(wanted))), [], 0
    for part in (part for path in paths for part in read_file(files, path, wanted)):
        parts.append(part.slice(0, limit - rows))
        rows += parts[-1].num_rows
        if rows == limit:
            break
    if not parts:
        parts = [pa.table({name: pa.array([], pa.string()) for name in (*wanted, *files.added_columns)})]
    return _sample(files, parts, (*header, *files.added_columns), columns, None if rows == limit else rows)


def _sample(
    files: TableFiles, parts: list[pa.Table], names: tuple[str, ...], columns: Sequence[str], total: int | None
) -> TableSample:
    rows = pl.DataFrame(pa.concat_tables(parts, promote_options="default"))
    return TableSample(rows.select(name for name in rows.columns if not columns or name in columns), names, total)


def _read_header(files: TableFiles, path: Path) -> list[str]:
    with arrow_csv.open_csv(path, parse_options=files.parse_options()) as reader:
        return list(reader.schema.names)


def _csv_batches(files: TableFiles, path: Path, header: Sequence[str], wanted: list[str]) -> Iterator[pa.RecordBatch]:
    convert = files.convert_options(header, include_columns=wanted)
    with arrow_csv.open_csv(path, parse_options=files.parse_options(), convert_options=convert) as reader:
        yield from reader


def _partitions(path: Path) -> dict[str, str]:
    """Values of columns that the names of a file's folders tell, as Hive writes them."""
    named = (unquote(part).partition("=") for part in path.parent.parts if "=" in part)
    return {name: value for name, _, value in named}


def _add_columns(files: TableFiles, path: Path, rows: pa.Table, first: int) -> pa.Table:
    if files.format == "parquet":
        for column, value in _partitions(path).items():
            if column not in rows.column_names:
                text = pa.scalar(None if value == _HIVE_NULL else value, pa.string())
                rows = rows.append_column(column, pa.repeat(text, rows.num_rows))
    if files.row_id:
        name = pl.lit(_place(files, path))
        numbers = pl.select(pl.format("{}:{}", name, pl.int_range(first, first + rows.num_rows)))
        rows = rows.append_column(files.row_id, numbers.to_series().to_arrow().cast(pa.string()))
    if files.file_time:
        changed = pa.scalar(path.stat().st_mtime_ns // 1000, pa.timestamp("us", tz="UTC"))
        rows = rows.append_column(files.file_time, pa.repeat(changed, rows.num_rows))
    return rows


def _place(files: TableFiles, path: Path) -> str:
    """Name of a file that no other one of the table has: files of two folders are often called alike."""
    (root, *others) = (Path(name) for name in files.paths)
    if others or not path.is_relative_to(root):
        return path.as_posix()
    return path.name if path == root else path.relative_to(root).as_posix()
