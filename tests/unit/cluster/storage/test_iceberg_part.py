"""Schemas of Iceberg tables in Arrow."""

from __future__ import annotations

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField, TimestamptzType

from cluster.storage.iceberg_part import arrow_schema


def test_arrow_schema_has_the_columns_and_no_metadata() -> None:
    schema = Schema(
        NestedField(1, "n", LongType(), required=True), NestedField(7, "at", TimestamptzType(), required=False)
    )
    expected = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("at", pa.timestamp("us", "UTC"))])
    assert arrow_schema(schema).equals(expected, check_metadata=True)
