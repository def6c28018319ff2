"""Rows of requests on their way to a model: values by column, typed for a whole batch together. Pure.

Typing one row at a time costs more than scoring it. A request's values therefore stay as they came until a batch is
assembled; only when a batch does not fit its types is each request typed alone, to find the one at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from deployments.protocol.arrow_columns import build_column, number_array, required_columns, text_array
from features.definitions import Column, FeatureSet

ColumnValues: TypeAlias = "Sequence[Any] | pa.Array"


class RequestRows(NamedTuple):
    """The rows of one request."""

    size: int
    """Number of rows."""
    values: tuple[ColumnValues, ...]
    """By column, in the order of FeatureSet.request: JSON values, or an array that is typed already."""
    fields: tuple[str, ...]
    """Where in the request each column was, for errors."""


class RowAssembler:
    """Assembles the rows of several requests for one feature set into a typed table."""

    def __init__(self, features: FeatureSet) -> None:
        needed = required_columns(features)
        self._columns = [(column, column.name in needed) for column in features.request]
        self._names = [column.name for column in features.request]
        self._numbers = self._optional("number", needed)
        self._categories = self._optional("category", needed)

    def build_table(self, requests: Sequence[RequestRows]) -> pa.Table:
        """The rows of all requests, in order.

        Raises:
            RequestError: A value does not fit its column; names the field if there is just one request.
        """
        numbers = self._build_together(requests, self._numbers, number_array)
        arrays = numbers | self._build_together(requests, self._categories, text_array)
        for i, (column, needed) in enumerate(self._columns):
            if i not in arrays:
                parts = [request.values[i] for request in requests]
                field = requests[0].fields[i] if len(requests) == 1 else column.name
                arrays[i] = _column(column, parts, field, needed)
        return pa.Table.from_arrays([arrays[i] for i in range(len(self._columns))], self._names)

    def _optional(self, kind: str, needed: frozenset[str]) -> list[int]:
        """Indices of the columns of a kind that may hold nulls."""
        return [i for i, (column, _) in enumerate(self._columns) if column.kind == kind and column.name not in needed]

    def _build_together(
        self, requests: Sequence[RequestRows], indices: Sequence[int], build: Callable[[list[Any]], pa.Array | None]
    ) -> dict[int, pa.Array]:
        """Columns of a kind as slices of one array: building an array costs more than extending it.

        Empty when a value does not fit, or came as an array; building column by column then finds the fault.
        """
        lists = [request.values[i] for i in indices for request in requests]
        if not all(type(values) is list for values in lists):
            return {}
        array = build(list(chain.from_iterable(lists)))
        if array is None:
            return {}
        size = sum(request.size for request in requests)
        return {i: array.slice(at * size, size) for at, i in enumerate(indices)}


def _column(column: Column, parts: list[ColumnValues], field: str, required: bool) -> pa.Array:
    if any(isinstance(part, pa.Array) for part in parts):
        arrays = [
            part if isinstance(part, pa.Array) else build_column(column, part, field, required=required)
            for part in parts
        ]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    values = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
    return build_column(column, values, field, required=required)
