"""Builds the features of requests: request columns, derived features, and features looked up online."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, cast

import numpy as np
import pyarrow as pa

from features.definitions import Column, FeatureSet
from features.derived_columns import joined_steps, request_expressions
from features.online.arrow_cells import ArrowColumn, build_cells, slice_rows
from features.online.batch_lookup import BatchLookup, LookupResult
from features.online.derived_reader import DerivedReader
from features.online.keys import state_key, state_keys, state_prefix
from features.online.row_lookup import RowLookup
from features.online.store import StateReader
from features.types import AS_OF, arrow_type

# Later than any time: replaces null, so that the lookup cannot fail; its result is masked.
_MAX_TIME = 1 << 62
# Beyond this number of rows a batch is faster.
_FEW_LOOKUPS = 16


class FeatureReader:
    """Reads the features of requests, with one multi-get for each.

    Args:
        features: The feature set.
        store: The online store.
    """

    def __init__(self, features: FeatureSet, store: StateReader) -> None:
        as_of = [features.as_of.model_copy(update={"name": AS_OF})] if features.as_of else []
        columns = (*features.available_columns, Column(name=AS_OF, kind="timestamp"))
        first, expressions = (*features.request_derived, *as_of), request_expressions(features)
        self._before = DerivedReader(first, features.request, [expressions] if first else [], finite=False)
        self._views = ViewReader(features, store) if features.views else None
        self._after = DerivedReader(features.joined_derived, columns, joined_steps(features), finite=True)
        self._types = {c.name: arrow_type(c) for c in columns}
        self._names, self._request_names = list(self._types), [c.name for c in features.request]

    def read(self, request: pa.Table, now_us: int) -> pa.Table:
        """Read features.

        Args:
            request: Rows with the request columns.
            now_us: The server's clock, microseconds since the epoch; dates the rows when the feature set has no
                ``as_of``.

        Returns:
            Every column of ``features.available_columns``, and ``as_of``; one row for each row of ``request``.

        Raises:
            DataError: A row's time is too far behind the newest event.
            StoreUnavailable: The online store does not answer.
        """
        columns = {name: self._cast_values(name, request.column(name)) for name in self._request_names}
        columns |= self._before.read(columns, request.num_rows)
        if AS_OF not in columns:
            columns[AS_OF] = pa.repeat(pa.scalar(now_us, self._types[AS_OF]), request.num_rows)
        if self._views is not None:
            columns |= self._views.read(columns, request.num_rows)
        columns |= self._after.read(columns, request.num_rows)
        return pa.Table.from_arrays([columns[name] for name in self._names], self._names)

    def _cast_values(self, name: str, values: ArrowColumn) -> ArrowColumn:
        kind = self._types[name]
        return values if values.type == kind else values.cast(kind)


class ViewReader:
    """Looks up the views of a feature set online."""

    def __init__(self, features: FeatureSet, store: StateReader) -> None:
        views = features.views
        self._store = store
        self._lookup, self._row_lookups = BatchLookup(views), [RowLookup(view) for view in views]
        self._empty = [layout.empty for layout in self._lookup.layouts]
        self._entities = [(state_prefix(view), view.entity.keys) for view in views]
        self._keys = list(dict.fromkeys(key for view in views for key in view.entity.keys))
        types = {c.name: arrow_type(c) for view in views for c in view.columns}
        self._number_types = [types[name] for name in self._lookup.number_columns]
        view_of = {c.name: v for v, view in enumerate(views) for c in view.columns}
        self._view_of_number = np.array([view_of[name] for name in self._lookup.number_columns], np.intp)
        self._view_of_text = [view_of[name] for name in self._lookup.text_columns]
        kinds = [[column.kind for column in view.columns] for view in views]
        self._blanks: list[tuple[list[float], list[str | None]]] = [
            ([math.nan] * (len(of_view) - of_view.count("category")), [None] * of_view.count("category"))
            for of_view in kinds
        ]

    def read(self, rows: Mapping[str, ArrowColumn], size: int) -> dict[str, pa.Array]:
        """Look up features.

        Args:
            rows: Key columns and ``as_of``.
            size: Number of rows.

        Returns:
            The views' features by name; null for a null key or time.
        """
        if not size:
            types = zip(self._lookup.number_columns, self._number_types, strict=True)
            return {name: pa.array([], kind) for name, kind in types} | {
                name: pa.array([], pa.string()) for name in self._lookup.text_columns
            }
        lookup = self._look_up_rows(rows, size) if size <= _FEW_LOOKUPS else self._look_up_batch(rows)
        cells = slice_rows(lookup.numbers, self._number_types)
        columns = dict(zip(self._lookup.number_columns, cells, strict=True))
        for name, texts in zip(self._lookup.text_columns, lookup.texts, strict=True):
            columns[name] = build_cells(texts, pa.string())
        return columns

    def _look_up_rows(self, rows: Mapping[str, ArrowColumn], size: int) -> LookupResult:
        times = [moment.value for moment in rows[AS_OF]]
        cells = {key: rows[key].to_pylist() for key in self._keys}
        keys: list[bytes] = []
        queries: list[tuple[int, int | None]] = []
        for view, (prefix, names) in enumerate(self._entities):
            for values, at in zip(zip(*[cells[name] for name in names], strict=True), times, strict=True):
                usable = at is not None and None not in values
                queries.append((view, at if usable else None))
                keys += [state_key(prefix, values)] if usable else []
        states = iter(self._store.get_many(keys))
        lookups = [
            self._row_lookups[view](next(states) or self._empty[view], at) if at is not None else self._blanks[view]
            for view, at in queries
        ]
        # The values of all views, by row.
        numbers = [list(chain.from_iterable(some for some, _ in lookups[row::size])) for row in range(size)]
        texts = [chain.from_iterable(some for _, some in lookups[row::size]) for row in range(size)]
        return LookupResult(
            np.ascontiguousarray(np.array(numbers).T), [list(cells) for cells in zip(*texts, strict=True)]
        )

    def _look_up_batch(self, rows: Mapping[str, ArrowColumn]) -> LookupResult:
        times, keys = rows[AS_OF].cast(pa.int64()), {key: rows[key] for key in self._keys}
        usable = self._usable(times, keys)
        if times.null_count:
            times = times.fill_null(_MAX_TIME)
        which, unique, views = self._unique_states({key: _texts(cells) for key, cells in keys.items()})
        states = [state or self._empty[view] for state, view in zip(self._store.get_many(unique), views, strict=True)]
        lookup = self._lookup(states, which, np.asarray(times))
        return lookup if usable is None else self._mask(lookup, usable)

    def _usable(self, times: ArrowColumn, keys: Mapping[str, ArrowColumn]) -> np.ndarray | None:
        """Which rows have all keys and the time that each view needs, [views, rows]; None when all have."""
        if not (times.null_count or any(cells.null_count for cells in keys.values())):
            return None
        dated = np.asarray(times.is_valid())
        valid = {key: np.asarray(cells.is_valid()) for key, cells in keys.items()}
        return np.array([np.logical_and.reduce([dated, *(valid[key] for key in names)]) for _, names in self._entities])

    def _unique_states(self, cells: Mapping[str, list[str]]) -> tuple[np.ndarray, list[bytes], list[int]]:
        """Position of the state of each view and row, [views, rows]; the unique keys of states; the view of each."""
        which: list[list[int]] = []
        unique: list[bytes] = []
        views: list[int] = []
        for view, (prefix, names) in enumerate(self._entities):
            first, numbers = len(unique), dict[Any, int]()
            rows = cells[names[0]] if len(names) == 1 else zip(*[cells[name] for name in names], strict=True)
            which.append([first + numbers.setdefault(row, len(numbers)) for row in rows])
            entities = [list(numbers)] if len(names) == 1 else list(zip(*numbers, strict=True))
            unique += state_keys(prefix, entities)
            views += [view] * len(numbers)
        return np.array(which, np.intp), unique, views

    def _mask(self, lookup: LookupResult, usable: np.ndarray) -> LookupResult:
        numbers = np.where(usable[self._view_of_number], lookup.numbers, np.nan)
        texts = zip(self._view_of_text, lookup.texts, strict=True)
        return LookupResult(numbers, [_where(usable[view], cells) for view, cells in texts])


def _texts(cells: ArrowColumn) -> list[str]:
    """Cells as Python texts; null becomes an empty text, whose result is masked."""
    values: list[str | None] = cells.to_pylist()
    return [value or "" for value in values] if cells.null_count else cast("list[str]", values)


def _where(usable: np.ndarray, cells: list[str | None]) -> list[str | None]:
    return [cell if there else None for cell, there in zip(cells, usable.tolist(), strict=True)]
