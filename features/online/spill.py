"""Histories in temporary files, when they are larger than what is kept in memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pyarrow as pa


class SpillFiles(ExitStack):
    """Numbered Arrow IPC files in a folder; each is created when its first rows are added.

    Used as a context manager; the files can be read afterward.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def add(self, number: int, rows: pl.DataFrame) -> None:
        """Append rows to a file."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        if number not in self._writers:
            self._writers[number] = self.enter_context(pa.ipc.new_stream(self._path(number), table.schema))
        self._writers[number].write_table(table)

    @property
    def paths(self) -> list[Path]:
        """The files, by number; to be read by ``polars.read_ipc_stream``."""
        return [self._path(number) for number in sorted(self._writers)]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.arrows"
