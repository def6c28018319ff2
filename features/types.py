"""Types that features have offline and online: the time columns of a row, and the Arrow type of each kind of column."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from features.definitions import Column

AS_OF = "as_of"


INSTANT = pl.Datetime("us", "UTC")


_ARROW_TYPE: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "category": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(column: Column) -> pa.DataType:
    """Type of a request or feature column on the wire and in tables."""
    return pa.list_(pa.float32()) if column.kind == "tensor" else _ARROW_TYPE[column.kind]
