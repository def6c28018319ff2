"""A catalog in memory, with the methods that a journal uses."""

from __future__ import annotations

import random

import pyarrow as pa


class MemoryTables:
    """One table, whose rows are read in no order, as Iceberg's are."""

    def __init__(self) -> None:
        self.rows: list[pa.Table] = []

    def exists(self, name: str) -> bool:
        return bool(self.rows)

    def read(self, name: str) -> pa.Table:
        return pa.concat_tables(random.Random(len(self.rows)).sample(self.rows, len(self.rows)))

    def append(self, name: str, rows: pa.Table, *unused: object, **options: object) -> None:
        self.rows.append(rows)
