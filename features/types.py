"""Names and types that features share offline and online."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from features.definitions import Column

AS_OF = "as_of"
"""Column with the time as of which a row's features are looked up."""
ID = "id"
"""Column that identifies an example or a served row."""

LABEL = "label"
"""Column with an example's label."""
LABEL_KNOWN_AT = "label_known_at"
"""Column with the time from which an example's label was known."""
WEIGHT = "weight"
"""Column of a weak frame: how much a row counts in training; a row with a true label counts 1."""

KNOWN_FROM = "__known_from"
"""Column of a source's table: from when a row's values are known; null for those with which the row first landed."""
KNOWN_UNTIL = "__known_until"
"""Column beside it, computed where rows are read: from when a later version of the row replaces these values."""

KNOWN_FROM_TYPE = pa.timestamp("us", tz="UTC")

INSTANT = pl.Datetime("us", "UTC")
"""Type of time columns."""

POLARS_TYPES: dict[str, pl.DataType] = {
    "number": pl.Float64(),
    "category": pl.String(),
    "timestamp": INSTANT,
    "tensor": pl.List(pl.Float32()),
}
"""Type of each kind of column."""

_ARROW_TYPE: dict[str, pa.DataType] = {
    "number": pa.float64(),
    "category": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(column: Column) -> pa.DataType:
    """Return the type of a column in requests and tables."""
    return pa.list_(pa.float32()) if column.kind == "tensor" else _ARROW_TYPE[column.kind]
