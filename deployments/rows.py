"""Rows of requests on their way to a model: values by column, typed for a whole batch at once. Pure.

To type one row at a time costs more than to score it. A request's values therefore stay as they came until a batch is
put together; only when a batch does not fit its types is each request typed alone, to find whose fault it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from deployments.columns import build_column, required
from features.definitions import Column, FeatureSet

Values: TypeAlias = "Sequence[Any] | pa.Array"


class Rows(NamedTuple):
    """``values`` by column in the order of FeatureSet.request: JSON values, or an array that is typed already.

    ``fields`` names where in the request each column stood.
    """

    size: int
    values: tuple[Values, ...]
    fields: tuple[str, ...]


class Assembler:
    """Puts requests of one feature set together."""

    def __init__(self, features: FeatureSet) -> None:
        needed = required(features)
        self._columns = [(column, column.name in needed) for column in features.request]
        self._names = [column.name for column in features.request]

    def table(self, requests: Sequence[Rows]) -> pa.Table:
        """The rows of all requests, in order. Raises RequestError, which names the field when there is one request."""
        arrays = [
            _column(column, [r.values[i] for r in requests], _field(column, i, requests), required)
            for i, (column, required) in enumerate(self._columns)
        ]
        return pa.Table.from_arrays(arrays, self._names)


def _field(column: Column, index: int, requests: Sequence[Rows]) -> str:
    return requests[0].fields[index] if len(requests) == 1 else column.name


def _column(column: Column, parts: list[Values], field: str, required: bool) -> pa.Array:
    if any(isinstance(part, pa.Array) for part in parts):
        arrays = [
            part if isinstance(part, pa.Array) else build_column(column, part, field, required=required)
            for part in parts
        ]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    values = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
    return build_column(column, values, field, required=required)
