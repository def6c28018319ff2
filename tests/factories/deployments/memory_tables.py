"""A catalog in memory, with the methods that a journal uses."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa


class MemoryTables:
    """One table, whose rows are read in no order, as Iceberg's are.

    Args:
        rows: What has been appended, which several may share.
        claim: What an append checks.
    """

    def __init__(self, rows: list[pa.Table] | None = None, claim: Any = None) -> None:
        self.rows = [] if rows is None else rows
        self._claim = claim

    def exists(self, name: str) -> bool:
        """Whether there are rows."""
        return bool(self.rows)

    def read(self, name: str) -> pa.Table:
        """All rows."""
        return pa.concat_tables(random.Random(len(self.rows)).sample(self.rows, len(self.rows)))

    def append(self, name: str, rows: pa.Table, *unused: object, **options: object) -> None:
        """Append rows."""
        if self._claim is not None:
            self._claim.check()
        self.rows.append(rows)
