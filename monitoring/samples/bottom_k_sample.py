"""A uniform sample of rows that merges exactly: any order, any split into parts gives the same sample. Pure.

Bottom-k sampling (Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007): a row's priority is a hash of
its id, and the k rows of least priority are kept. Which rows these are does not depend on when or where they came, and a
row that is seen twice (a retry, a repeated log entry) counts once. Parts to be merged must be made by one version of
polars, whose hash it is.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.errors import DataError

PRIORITY = "__priority__"
_SEED = 0x72_61_79


class Reservoir:
    """At most ``size`` rows of equal columns, a uniform sample without replacement of all distinct ids."""

    def __init__(self, size: int, schema: pa.Schema) -> None:
        """Raises DataError for a size below 1."""
        if size < 1:
            raise DataError(f"a sample of {size} rows", "keep at least one")
        self.size = size
        self.schema = schema
        self._kept = schema.append(pa.field(PRIORITY, pa.uint64())).empty_table()

    @property
    def rows(self) -> pa.Table:
        """The sample, ordered by priority, which is a random order."""
        return self._kept.drop_columns([PRIORITY])

    def update(self, frame: pa.Table, ids: pa.Array) -> None:
        """Offer rows with their ids (strings or integers, unique to a row). Raises DataError for other columns."""
        if not frame.schema.equals(self.schema) or len(ids) != frame.num_rows:
            raise DataError(
                f"{frame.num_rows} rows of {', '.join(frame.schema.names)} with {len(ids)} ids",
                f"offer rows of {', '.join(self.schema.names)}, each with its id",
            )
        priority = pl.Series(ids).cast(pl.String).hash(_SEED).to_numpy()
        # Most rows of a long stream are turned away here, without being copied.
        chosen = np.flatnonzero(priority <= self._limit())
        taken = frame.take(pa.array(chosen)).append_column(PRIORITY, pa.array(priority[chosen], pa.uint64()))
        self._keep(taken)

    def merge(self, other: Self) -> None:
        """Add another sample. Raises DataError when it is of other columns or of another size."""
        if other.size != self.size or not other.schema.equals(self.schema):
            raise DataError("samples of different sizes or columns", "samples merge within one model version")
        self._keep(other._kept)

    def to_bytes(self) -> bytes:
        """An Arrow stream."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._kept.schema) as writer:
            writer.write_table(self._kept)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> Self:
        """Raises DataError when ``data`` is no sample."""
        try:
            kept = pa.ipc.open_stream(data).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{len(data)} bytes that are not a sample: {error}") from error
        if kept.schema.names[-1:] != [PRIORITY]:
            raise DataError(f"a table of {', '.join(kept.schema.names)}, which is not a sample")
        made = cls(size, kept.drop_columns([PRIORITY]).schema)
        made._keep(kept)
        return made

    def _limit(self) -> np.uint64:
        full = self._kept.num_rows == self.size
        return np.uint64(self._kept.column(PRIORITY)[-1].as_py() if full else np.iinfo(np.uint64).max)

    def _keep(self, more: pa.Table) -> None:
        both = pa.concat_tables([self._kept, more])
        _, first = np.unique(both.column(PRIORITY).to_numpy(), return_index=True)
        self._kept = both.take(pa.array(first[: self.size])).combine_chunks()
