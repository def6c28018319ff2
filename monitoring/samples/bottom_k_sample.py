"""A uniform sample of rows that come in parts: any order, any split into parts gives the same sample. Pure.

Bottom-k sampling (Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007): a row's priority is a hash
of its id, and the k rows with the lowest priorities are kept. Which rows these are does not depend on when or where
they came, and a row that comes twice (a retry, a repeated log entry) counts once. Equal samples need equal
versions of polars, which provides the hash.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from cluster.errors import DataError

PRIORITY = "__priority__"
_SEED = 0x72_61_79


class BottomKSample:
    """At most ``size`` rows of equal columns: a uniform sample, without replacement, of all distinct ids."""

    def __init__(self, size: int, schema: pa.Schema) -> None:
        """Start empty.

        Args:
            size: Rows to keep at most.
            schema: Columns of the rows.

        Raises:
            DataError: ``size`` is below 1.
        """
        if size < 1:
            raise DataError("data.empty_sample", size=size)
        self.size = size
        self.schema = schema
        self._sample = schema.append(pa.field(PRIORITY, pa.uint64())).empty_table()

    @property
    def rows(self) -> pa.Table:
        """The sample, ordered by priority, which is a random order."""
        return self._sample.drop_columns([PRIORITY])

    def update(self, frame: pa.Table, ids: pa.Array) -> None:
        """Offer rows.

        Args:
            frame: Rows with the columns of the schema.
            ids: Their ids: strings or integers, unique to a row.

        Raises:
            DataError: The columns differ from the schema, or there are not as many ids as rows.
        """
        if not frame.schema.equals(self.schema) or len(ids) != frame.num_rows:
            raise DataError(
                "data.sample_columns",
                columns=frame.schema.names,
                rows=frame.num_rows,
                ids=len(ids),
                expected=self.schema.names,
            )
        priority = pl.Series(ids).cast(pl.String).hash(_SEED).to_numpy()
        # Most rows of a long stream are rejected here, without being copied.
        chosen = np.flatnonzero(priority <= self._limit())
        rows = frame.take(pa.array(chosen)).append_column(PRIORITY, pa.array(priority[chosen], pa.uint64()))
        both = pa.concat_tables([self._sample, rows])
        _, first = np.unique(both.column(PRIORITY).to_numpy(), return_index=True)
        self._sample = both.take(pa.array(first[: self.size])).combine_chunks()

    def _limit(self) -> np.uint64:
        full = self._sample.num_rows == self.size
        return np.uint64(self._sample.column(PRIORITY)[-1].as_py() if full else np.iinfo(np.uint64).max)
