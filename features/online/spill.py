"""Histories in temporary files, when they are larger than what is kept in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow as pa


class SpillFiles:
    """Numbered Arrow IPC files in a folder; each is created when its first rows are added.

    Used as a context manager; the files can be read afterward.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def add(self, number: int, rows: pl.DataFrame) -> None:
        """Append rows to a file."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        if number not in self._writers:
            self._writers[number] = pa.ipc.new_stream(self._path(number), table.schema)
        self._writers[number].write_table(table)

    @property
    def paths(self) -> list[Path]:
        """The files, by number; to be read by ``polars.read_ipc_stream``."""
        return [self._path(number) for number in sorted(self._writers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.arrows"
