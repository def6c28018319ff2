"""Short forms of where a source is read from: Parquet, CSV, Iceberg, SQL, Kafka. Whatever else Ray Data reads is a function.

Each gives a ``Read``, which a project hands to ``Source(read=...)``. Nothing is read before a source is landed. A form
knows the source's declared columns by then: text formats give every cell as text, so that one cell that is no number puts
one row into quarantine instead of failing the file, and a code such as "00501" stays as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from cluster.errors import DataError, RayloopError
from features.definitions import Column

if TYPE_CHECKING:
    import ray.data

Columns = tuple[Column, ...]
Decode = Callable[[pa.Table, Columns], pa.Table]

CSV_NULLS = ("", "NA")
"""Cells that mean missing."""


@dataclass(frozen=True)
class SourceReader:
    """``where`` the rows lie, for people, and the function that reads them, given the columns that are wanted."""

    location: str
    function: Callable[[Columns], ray.data.Dataset]

    def open(self, columns: Columns) -> ray.data.Dataset:
        """Raises DataError when nothing can be read from there."""
        try:
            return self.function(columns)
        except RayloopError:
            raise
        except Exception as error:
            # Each backend has errors of its own; whichever it is, the user gets the place and the cause.
            raise read_error(self.location, error) from error


def read_error(where: str, error: Exception) -> DataError:
    from ray.exceptions import RayTaskError

    # Around what went wrong in a task Ray puts a traceback, and Ray Data puts words of its own behind it.
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines() or [""]
    todo = "install it" if isinstance(cause, ModuleNotFoundError) else "is it there, and open to us?"
    return DataError(f"{where} cannot be read: {type(cause).__name__}: {lines[0].strip()}", todo)


def parquet(paths: str | Sequence[str], **options: Any) -> SourceReader:
    """Parquet files, or folders of them, local or in object storage. ``options`` are ray.data.read_parquet's."""
    return SourceReader(f"Parquet at {_listed(paths)}", partial(_parquet, paths, options))


def csv(
    paths: str | Sequence[str], *, delimiter: str = ",", nulls: Sequence[str] = CSV_NULLS, **options: Any
) -> SourceReader:
    """CSV files with a header line; ``nulls`` are the cells that mean missing. ``options`` are ray.data.read_csv's."""
    return SourceReader(f"CSV at {_listed(paths)}", partial(_csv, paths, delimiter, tuple(nulls), options))


def iceberg(table: str, catalog: Mapping[str, str], snapshot: int | None = None) -> SourceReader:
    """An Iceberg table, "namespace.table"; ``catalog`` as pyiceberg's load_catalog takes it. Default: the newest snapshot."""
    return SourceReader(f"Iceberg table {table}", partial(_iceberg, table, dict(catalog), snapshot))


def sql(query: str, url: str, *, shard_keys: Sequence[str] = (), blocks: int = 1) -> SourceReader:
    """The rows of a query. ``url`` is SQLAlchemy's, with ``$VARIABLES`` of the environment, so that no password is written.

    One task reads it, unless ``shard_keys`` name columns by whose MD5 the database can cut it into ``blocks``.
    """
    return SourceReader(f"SQL at {_shown(url)}", partial(_sql, query, url, list(shard_keys), blocks))


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
    """The messages of topics up to now, each a JSON object with the source's columns; what is there already is not landed twice.

    ``start`` and ``end`` are offsets, times or per-partition offsets as in ray.data.read_kafka; ``decode`` turns a table of
    messages (key, value, topic, partition, offset, timestamp) into one of columns, where they are not JSON; ``config`` is
    librdkafka's, for whoever must log in.
    """
    options = {"bootstrap_servers": servers, "start_offset": start, "end_offset": end}
    options |= {"consumer_config": dict(config) if config else None, "timeout_ms": round(timeout_s * 1000)}
    return SourceReader(
        f"Kafka topic {_listed(topics)} at {servers}", partial(_kafka, topics, options, decode or decode_json)
    )


def decode_json(messages: pa.Table, columns: Columns) -> pa.Table:
    """A column of text for each declared one; null where a message has no such field, or is no JSON object."""
    texts = [
        None if value is None else value.decode(errors="replace") for value in messages.column("value").to_pylist()
    ]
    values = pl.Series(texts, dtype=pl.String)
    return pl.DataFrame([_field(values, column.name) for column in columns]).to_arrow()


def _field(values: pl.Series, name: str) -> pl.Series:
    return values.str.json_path_match(f"$['{name}']").alias(name)


def _parquet(paths: str | Sequence[str], options: dict[str, Any], columns: Columns) -> ray.data.Dataset:
    import ray.data

    return ray.data.read_parquet(paths, **options)  # type: ignore[arg-type]


def _csv(
    paths: str | Sequence[str], delimiter: str, nulls: tuple[str, ...], options: dict[str, Any], columns: Columns
) -> ray.data.Dataset:
    import ray.data
    from pyarrow import csv as arrow_csv

    text = {column.name: pa.string() for column in columns}
    convert = arrow_csv.ConvertOptions(column_types=text, null_values=list(nulls), strings_can_be_null=True)
    parse = arrow_csv.ParseOptions(delimiter=delimiter)
    return ray.data.read_csv(paths, convert_options=convert, parse_options=parse, **options)  # type: ignore[arg-type]


def _iceberg(table: str, catalog: dict[str, str], snapshot: int | None, columns: Columns) -> ray.data.Dataset:
    import ray.data

    return ray.data.read_iceberg(table_identifier=table, catalog_kwargs=catalog, snapshot_id=snapshot)


def _sql(query: str, url: str, shard_keys: list[str], blocks: int, columns: Columns) -> ray.data.Dataset:
    import ray.data

    connect = partial(_connect, url)
    connect().close()  # A database that is away is told here, not from within a task.
    if not shard_keys:
        return ray.data.read_sql(query, connect, override_num_blocks=1)
    return ray.data.read_sql(query, connect, shard_keys=shard_keys, override_num_blocks=blocks)


def _connect(url: str) -> Any:
    """A connection of the database's own driver; variables are filled in where it is opened."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    named = [name.strip("{}") for name in re.findall(r"\$(\w+|{\w+})", url)]
    if unset := [name for name in named if name not in os.environ]:
        raise DataError(
            f"the URL of a source names ${unset[0]}, which is not set where it is read",
            "set it on every machine before the cluster starts (`rayloop up`)",
        )
    return create_engine(os.path.expandvars(url), poolclass=NullPool).raw_connection()


def _kafka(topics: str | Sequence[str], options: dict[str, Any], decode: Decode, columns: Columns) -> ray.data.Dataset:
    import ray.data

    messages = ray.data.read_kafka(topics if isinstance(topics, str) else list(topics), **options)
    # The key's own column is kept by a decoder that wants it; the headers' type differs from message to message.
    taken = messages.select_columns(["key", "value", "topic", "partition", "offset", "timestamp"])

    def made(block: pa.Table) -> pa.Table:
        return decode(block, columns)

    return taken.map_batches(made, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)


def _listed(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _shown(url: str) -> str:
    """The URL without its password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise DataError(
            f"{url.partition('://')[0]!r} begins no database URL", "write sqlite:///file or postgresql://…"
        ) from error
