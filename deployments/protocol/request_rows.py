"""Rows of requests on their way to a model: values by column, typed for a whole batch at once. Pure.

To type one row at a time costs more than to score it. A request's values therefore stay as they came until a batch is
put together; only when a batch does not fit its types is each request typed alone, to find whose fault it is.
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
    """``values`` by column in the order of FeatureSet.request: JSON values, or an array that is typed already.

    ``fields`` names where in the request each column stood.
    """

    size: int
    values: tuple[ColumnValues, ...]
    fields: tuple[str, ...]


class RowAssembler:
    """Puts requests of one feature set together."""

    def __init__(self, features: FeatureSet) -> None:
        needed = required_columns(features)
        self._columns = [(column, column.name in needed) for column in features.request]
        self._names = [column.name for column in features.request]
        self._numbers = self._optional("number", needed)
        self._categories = self._optional("category", needed)

    def table(self, requests: Sequence[RequestRows]) -> pa.Table:
        """The rows of all requests, in order. Raises RequestError, which names the field when there is one request."""
        arrays = self._at_once(requests, self._numbers, number_array) | self._at_once(
            requests, self._categories, text_array
        )
        for i, (column, needed) in enumerate(self._columns):
            if i not in arrays:
                parts = [r.values[i] for r in requests]
                arrays[i] = _column(column, parts, _field(column, i, requests), needed)
        return pa.Table.from_arrays([arrays[i] for i in range(len(self._columns))], self._names)

    def _optional(self, kind: str, needed: frozenset[str]) -> list[int]:
        """Places of the columns of a kind that may hold nulls."""
        return [i for i, (column, _) in enumerate(self._columns) if column.kind == kind and column.name not in needed]

    def _at_once(
        self, requests: Sequence[RequestRows], places: Sequence[int], typed: Callable[[list[Any]], pa.Array | None]
    ) -> dict[int, pa.Array]:
        """Columns of a kind from one array: to make one costs more than to make it longer.

        Nothing where a value does not fit, or came as an array; column by column it is found out what is wrong.
        """
        lists = [request.values[i] for i in places for request in requests]
        if not all(type(values) is list for values in lists):
            return {}
        array = typed(list(chain.from_iterable(lists)))
        if array is None:
            return {}
        size = sum(request.size for request in requests)
        return {i: array.slice(at * size, size) for at, i in enumerate(places)}


def _field(column: Column, index: int, requests: Sequence[RequestRows]) -> str:
    return requests[0].fields[index] if len(requests) == 1 else column.name


def _column(column: Column, parts: list[ColumnValues], field: str, required: bool) -> pa.Array:
    if any(isinstance(part, pa.Array) for part in parts):
        arrays = [
            part if isinstance(part, pa.Array) else build_column(column, part, field, required=required)
            for part in parts
        ]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    values = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
    return build_column(column, values, field, required=required)
