"""Copies of an online store's keys and values in Parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.online.store import OnlineStore, open_shared_store

_SCHEMA = pa.schema({"key": pa.binary(), "value": pa.binary()})
_BATCH_KEYS = 10_000
_MARKS = (b"watermark/", b"table/", b"corrections/", b"loaded/")
# The project's prefix, which rayloop 0.1 did not have; the kind of key; the view's prefix.
_KEY = re.compile(
    rb"(?s)(\d+:[^/]*/|\xff.{30}|)(?:watermark/|position/|table/|corrections/|loaded/|)([0-9a-f]{16}\.\d+/)"
)


def is_empty(uri: str) -> bool:
    """Return whether the store at an address holds nothing."""
    return not open_shared_store(uri).keys(b"")


def dump(uri: str, folder: Path) -> list[Path]:
    """Write all keys and values into Parquet files, one for each view of a project.

    A view's states and watermark are from one moment: its writers wait meanwhile, its readers do not.

    Args:
        uri: Address of the store.
        folder: Where to write.

    Returns:
        The files.
    """
    store = open_shared_store(uri)
    views = sorted({match.groups() for key in store.keys(b"") if (match := _KEY.match(key))})
    files = [folder / f"{number}.parquet" for number in range(len(views))]
    for (project, view), file in zip(views, files, strict=True):
        _dump_view(store, project, view, file)
    return files


def load(uri: str, files: Iterable[Path]) -> int:
    """Write the contents of such files into a store. Returns the number of keys."""
    store, keys = open_shared_store(uri), 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH_KEYS):
            store.put_many(dict(zip(*(column.to_pylist() for column in batch.columns), strict=True)))
            keys += batch.num_rows
    return keys


def _dump_view(store: OnlineStore, project: bytes, view: bytes, file: Path) -> None:
    def write(values: list[bytes | None]) -> dict[bytes, bytes]:
        keys = [*store.keys(project + view), *store.keys(project + b"position/" + view)]
        keys += [project + kind + view for kind in _MARKS]
        with pq.ParquetWriter(file, _SCHEMA) as writer:
            for start in range(0, len(keys), _BATCH_KEYS):
                batch = keys[start : start + _BATCH_KEYS]
                pairs = [pair for pair in zip(batch, store.get_many(batch), strict=True) if pair[1] is not None]
                writer.write_table(pa.table([*zip(*pairs, strict=True)] or [(), ()], _SCHEMA))
        return {}

    # The name that materialize and push use: they write before or after this, but not during it.
    store.update(project + b"watermark/" + view, [], write)
