"""What a folder of tables contains, byte by byte."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.avro.file import AvroFile
from pyiceberg.io.pyarrow import PyArrowFileIO


def everything_below(folder: Path) -> bytes:
    """All cells of all Parquet files, all entries of all manifests, and all other bytes, in a folder."""
    texts = [str(pq.read_table(path).to_pylist()) for path in folder.rglob("*.parquet")]
    for path in folder.rglob("*.avro"):
        with AvroFile(PyArrowFileIO().new_input(str(path))) as records:
            texts += [str(list(records))]
    return "".join(texts).encode() + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def customers(*names: str) -> pa.Table:
    """A row for each name, a day apart."""
    at = [datetime(2024, 1, 1 + i, tzinfo=UTC) for i in range(len(names))]
    return pa.table({"customer": list(names), "at": pa.array(at, pa.timestamp("us", tz="UTC"))})
