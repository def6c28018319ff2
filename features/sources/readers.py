"""Readers of sources: Parquet, CSV, Iceberg, SQL, Kafka. A function covers everything else that Ray Data can read.

Each returns a ``SourceReader`` for ``Source(read=...)``. Nothing is read before the source is ingested. By then the
reader knows the declared columns: text formats give every cell as text, so that a cell that is not a number puts one
row into quarantine instead of failing the file, and a code such as "00501" keeps its zeros.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from cluster.errors import DataError, RayloopError
from features.definitions import Column
from features.sources.table_files import CSV_NULLS, TableFiles, find_files, read_file

if TYPE_CHECKING:
    import ray.data

Columns = tuple[Column, ...]
Decode = Callable[[pa.Table, Columns], pa.Table]


@dataclass(frozen=True)
class SourceReader:
    """Reads the rows of a source."""

    location: str
    """Where the rows are stored, for messages."""
    function: Callable[[Columns], ray.data.Dataset]
    """Reads the rows, given the columns that the source declares."""
    files: TableFiles | None = None
    """The files that hold the rows, if files do and nothing but their columns decides what is read of them."""

    def open(self, columns: Columns) -> ray.data.Dataset:
        """Open the rows as a Ray Dataset.

        Raises:
            DataError: The location cannot be read.
        """
        try:
            return self.function(columns)
        except RayloopError:
            raise
        except Exception as error:
            # Each backend has its own errors; the user gets the location and the cause of any of them.
            raise read_error(self.location, error) from error


def read_error(location: str, error: Exception) -> DataError:
    """Return an error that names the location and the cause in one line."""
    from ray.exceptions import RayTaskError

    # Ray wraps the cause in a traceback, and Ray Data appends its own text.
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines() or [""]
    return DataError("data.source_unreadable", location=location, cause=type(cause).__name__, reason=lines[0].strip())


def parquet(paths: str | Sequence[str], *, row_id: str = "", file_time: str = "", **options: Any) -> SourceReader:
    """Read Parquet files, or folders of them, local or in object storage.

    Args:
        paths: A path, or several.
        row_id: Name of a column to add, for local files without a key: the file's name and the row's number in it.
        file_time: Name of a column to add, for local files without times: when the file was changed.
        **options: Options of ``ray.data.read_parquet``.
    """
    files = TableFiles("parquet", _as_tuple(paths), row_id=row_id, file_time=file_time)

    def read(columns: Columns) -> ray.data.Dataset:
        import ray.data

        if files.added_columns:
            return _read_with_added(files, columns)
        return ray.data.read_parquet(paths, **options)  # type: ignore[arg-type]

    return SourceReader(f"Parquet at {_join_names(paths)}", read, None if options else files)


def csv(
    paths: str | Sequence[str],
    *,
    delimiter: str = ",",
    nulls: Sequence[str] = CSV_NULLS,
    row_id: str = "",
    file_time: str = "",
    **options: Any,
) -> SourceReader:
    """Read CSV files with a header line.

    Args:
        paths: A path, or several.
        delimiter: Separator of cells.
        nulls: Cells that mean missing.
        row_id: Name of a column to add, for local files without a key: the file's name and the row's number in it.
        file_time: Name of a column to add, for local files without times: when the file was changed.
        **options: Options of ``ray.data.read_csv``.
    """

    files = TableFiles("csv", _as_tuple(paths), delimiter, tuple(nulls), row_id, file_time)

    def read(columns: Columns) -> ray.data.Dataset:
        import ray.data

        if files.added_columns:
            return _read_with_added(files, columns)
        convert, parse = files.convert_options([column.name for column in columns]), files.parse_options()
        return ray.data.read_csv(paths, convert_options=convert, parse_options=parse, **options)  # type: ignore[arg-type]

    return SourceReader(f"CSV at {_join_names(paths)}", read, None if options else files)


def iceberg(table: str, catalog: Mapping[str, str], snapshot: int | None = None) -> SourceReader:
    """Read an Iceberg table.

    Args:
        table: "namespace.table".
        catalog: Options of pyiceberg's ``load_catalog``.
        snapshot: Id of a snapshot; None means the newest one at the time of reading.
    """

    def read(columns: Columns) -> ray.data.Dataset:
        import ray.data

        return ray.data.read_iceberg(table_identifier=table, catalog_kwargs=dict(catalog), snapshot_id=snapshot)

    return SourceReader(f"Iceberg table {table}", read)


def sql(query: str, url: str, *, shard_keys: Sequence[str] = (), blocks: int = 1) -> SourceReader:
    """Read the result of a SQL query.

    Args:
        query: The query.
        url: URL of SQLAlchemy. It may contain ``$VARIABLES`` of the environment, so that no password is written down.
        shard_keys: Columns by whose MD5 the database can split the result; without them, one task reads all of it.
        blocks: Number of parts to split the result into.
    """

    def read(columns: Columns) -> ray.data.Dataset:
        import ray.data

        connect = partial(_connect, url)
        connect().close()  # An unreachable database fails here, and not inside a task.
        if not shard_keys:
            return ray.data.read_sql(query, connect, override_num_blocks=1)
        return ray.data.read_sql(query, connect, shard_keys=list(shard_keys), override_num_blocks=blocks)

    return SourceReader(f"SQL at {_without_password(url)}", read)


def kafka(
    topics: str | Sequence[str],
    servers: str,
    *,
    start: Any = "earliest",
    end: Any = "latest",
    decode: Decode | None = None,
    config: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
) -> SourceReader:
    """Read all current messages of topics, each a JSON object with the source's columns.

    Messages that were ingested before are not ingested again.

    Args:
        topics: A topic, or several.
        servers: Bootstrap servers, "host:port,host:port".
        start: First offset, time or offsets by partition, as in ``ray.data.read_kafka``.
        end: Last offset, as ``start``.
        decode: Converts a table of messages (key, value, topic, partition, offset, timestamp) to one of columns, when
            they are not JSON.
        config: Options of librdkafka, such as credentials.
        timeout_s: Seconds to wait for messages.
    """

    def read(columns: Columns) -> ray.data.Dataset:
        import ray.data

        messages = ray.data.read_kafka(
            topics if isinstance(topics, str) else list(topics),
            bootstrap_servers=servers,
            start_offset=start,
            end_offset=end,
            consumer_config=dict(config) if config else None,
            timeout_ms=round(timeout_s * 1000),
        )
        # Headers are left out, because their type differs from message to message.
        selected = messages.select_columns(["key", "value", "topic", "partition", "offset", "timestamp"])
        to_columns = decode or decode_json
        return selected.map_batches(
            lambda block: to_columns(block, columns), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
        )

    return SourceReader(f"Kafka topic {_join_names(topics)} at {servers}", read)


def decode_json(messages: pa.Table, columns: Columns) -> pa.Table:
    """Decode JSON messages to a text column for each declared one; null where a message has no such field."""
    texts = [
        None if value is None else value.decode(errors="replace") for value in messages.column("value").to_pylist()
    ]
    values = pl.Series(texts, dtype=pl.String)
    return pl.DataFrame({c.name: values.str.json_path_match(f"$['{c.name}']") for c in columns}).to_arrow()


def _connect(url: str) -> Any:
    """A connection of the database's own driver; variables are expanded where it is opened."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    variables = [name.strip("{}") for name in re.findall(r"\$(\w+|{\w+})", url)]
    if unset := [name for name in variables if name not in os.environ]:
        raise DataError("data.variable_not_set", variable=unset[0])
    return create_engine(os.path.expandvars(url), poolclass=NullPool).raw_connection()


def _read_with_added(files: TableFiles, columns: Columns) -> ray.data.Dataset:
    """Each file is read by one task, which knows the numbers of its rows."""
    import ray.data

    if not files.is_local:
        raise DataError("data.files_not_local", paths=list(files.paths))
    paths = [{"path": str(path)} for path in find_files(files, Path())]
    names = [column.name for column in columns]

    def read(block: pa.Table) -> Iterator[pa.Table]:
        for path in block.column("path").to_pylist():
            yield from read_file(files, Path(path), names)

    return ray.data.from_items(paths, override_num_blocks=len(paths)).map_batches(
        read, batch_size=None, batch_format="pyarrow"
    )


def _as_tuple(paths: str | Sequence[str]) -> tuple[str, ...]:
    return (paths,) if isinstance(paths, str) else tuple(paths)


def _join_names(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _without_password(url: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise DataError("data.invalid_database_url", scheme=url.partition("://")[0]) from error
