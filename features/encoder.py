"""From feature columns to the two arrays a model eats.

``numbers`` float32 [n, k]: the number columns, NaN for missing, then each tensor flattened.
``codes`` int64 [n, c]: one column a category; 0 missing, 1 not in the vocabulary, 2.. the vocabulary.

Scaling and missing-value indicators belong to the model graph, not here: this mapping depends on
the vocabularies alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError
from cluster.values import Frozen
from features.definitions import Column

MISSING_CODE = 0
UNKNOWN_CODE = 1
FIRST_CODE = 2

_FILL_ROWS = 16_384
_NAN = pa.scalar(math.nan)
# Up to here the fixed cost of a step for each column weighs more than the rows.
_FEW_ROWS = 128

Arrays = dict[str, np.ndarray]


class Encoder(Frozen):
    """Columns in order, and the vocabulary of each category in code order."""

    columns: tuple[Column, ...]
    vocabularies: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, columns: tuple[Column, ...], frame: pa.Table, min_count: int = 1) -> Self:
        """Learn the vocabularies of ``frame``; values seen less than ``min_count`` times stay unknown."""
        vocabularies = {}
        present = dict(zip(frame.column_names, frame.columns, strict=True))
        for column in columns:
            if column.kind != "category":
                continue
            counts = pc.value_counts(_column(present, column.name).drop_null().cast(pa.string()))
            kept = [str(row["values"]) for row in counts.to_pylist() if row["counts"] >= min_count]
            vocabularies[column.name] = tuple(sorted(kept))
        return cls(columns=columns, vocabularies=vocabularies)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Number columns, in the order of ``numbers``' first columns."""
        return tuple(c.name for c in self.columns if c.kind == "number")

    @cached_property
    def tensors(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.kind == "tensor")

    @cached_property
    def categories(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.kind == "category")

    @cached_property
    def width(self) -> int:
        """Columns of ``numbers``, tensors included."""
        return len(self.numbers) + sum(math.prod(c.shape) for c in self.tensors)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each category, the two reserved ones included."""
        return tuple(len(self.vocabularies[name]) + FIRST_CODE for name in self.categories)

    @cached_property
    def _codes_of(self) -> dict[str, dict[str | None, int]]:
        return {
            name: {None: MISSING_CODE} | {value: FIRST_CODE + i for i, value in enumerate(values)}
            for name, values in self.vocabularies.items()
        }

    def encode(self, frame: pa.Table) -> Arrays:
        """Encode the columns of ``frame``. Raises DataError naming a column that is absent or mistyped."""
        if frame.num_rows <= _FEW_ROWS and (few := self._few(frame)) is not None:
            return few
        present = dict(zip(frame.column_names, frame.columns, strict=True))
        numbers = np.empty((frame.num_rows, self.width), np.float32)
        _fill(numbers, [_floats(_column(present, name), name) for name in self.numbers])
        at = len(self.numbers)
        for column in self.tensors:
            size = math.prod(column.shape)
            numbers[:, at : at + size] = _flat(_column(present, column.name), column, size)
            at += size
        codes = np.empty((frame.num_rows, len(self.categories)), np.int64)
        for i, name in enumerate(self.categories):
            codes[:, i] = self._codes(_column(present, name), name)
        return {"numbers": numbers, "codes": codes}

    def _few(self, frame: pa.Table) -> Arrays | None:
        """``encode`` at a lower fixed cost, for a frame of one piece with numbers that are floats; None for another."""
        pieces = frame.to_batches()
        if len(pieces) != 1 or self.tensors or (places := self._places_in(frame.schema)) is None:
            return None
        numbers = np.empty((frame.num_rows, self.width), np.float32)
        if self.numbers:
            numbers[:] = pieces[0].select(places[0]).to_tensor(null_to_nan=True).to_numpy()
        codes = np.empty((frame.num_rows, len(self.categories)), np.int64)
        for i, (name, place) in enumerate(zip(self.categories, places[1], strict=True)):
            known, values = self._codes_of[name], pieces[0].column(place).to_pylist()
            codes[:, i] = [known.get(value, UNKNOWN_CODE) for value in values]
        return {"numbers": numbers, "codes": codes}

    def _places_in(self, schema: pa.Schema) -> tuple[list[int], list[int]] | None:
        """Where numbers and categories stand; None when they are not all there as floats and texts."""
        for seen, places in self._seen:
            if seen.equals(schema):
                return places
        types = dict(zip(schema.names, schema.types, strict=True))
        floats = all(name in types and pa.types.is_floating(types[name]) for name in self.numbers)
        texts = all(name in types and pa.types.is_string(types[name]) for name in self.categories)
        at = schema.get_field_index
        places = ([at(n) for n in self.numbers], [at(n) for n in self.categories]) if floats and texts else None
        # Served frames are all of one schema.
        self._seen[:] = [(schema, places)]
        return places

    @cached_property
    def _seen(self) -> list[tuple[pa.Schema, tuple[list[int], list[int]] | None]]:
        return []

    def _codes(self, values: pa.ChunkedArray, name: str) -> np.ndarray:
        known = self._codes_of[name]
        found = _dictionary(values)
        table = [known.get(value, UNKNOWN_CODE) for value in found.dictionary.to_pylist()]
        # A null has no index; -1 takes the last entry.
        codes: np.ndarray = np.array([*table, MISSING_CODE], np.int64)[found.indices.fill_null(-1).to_numpy()]
        return codes


def _fill(rows: np.ndarray, columns: list[np.ndarray]) -> None:
    """Write ``columns`` into the first columns of ``rows``, a few rows at a time: these stay in a core's cache meanwhile."""
    for start in range(0, len(rows), _FILL_ROWS):
        part = slice(start, start + _FILL_ROWS)
        for column, values in zip(rows[part].T, columns, strict=False):
            column[:] = values[part]


def _column(present: Mapping[str, pa.ChunkedArray], name: str) -> pa.ChunkedArray:
    if name not in present:
        raise DataError(f"column {name!r} is missing", f"present are {', '.join(present)}")
    return present[name]


def _dictionary(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """The values as text, codes and their dictionary; values that come so keep theirs."""
    if pa.types.is_dictionary(values.type) and values.num_chunks == 1:
        found = values.chunk(0)
        return pa.DictionaryArray.from_arrays(found.indices, found.dictionary.cast(pa.string()))
    text = values if pa.types.is_string(values.type) else values.cast(pa.string())
    return text.combine_chunks().dictionary_encode()


def _floats(values: pa.ChunkedArray, name: str) -> np.ndarray:
    if pa.types.is_floating(values.type):
        # Twice as fast as to_numpy, which makes NaN of null too.
        filled = pc.fill_null(values, _NAN.cast(values.type)) if values.null_count else values
        return np.asarray(filled.to_numpy())
    try:
        return np.asarray(values.cast(pa.float32(), safe=False).to_numpy())
    except pa.ArrowInvalid as error:
        raise DataError(f"column {name!r} is {values.type}, not a number") from error


def _flat(values: pa.ChunkedArray, column: Column, size: int) -> np.ndarray:
    joined = values.combine_chunks()
    flat = joined.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    if joined.null_count or flat.size != len(joined) * size:
        raise DataError(f"column {column.name!r} is not a tensor of shape {column.shape} in every row")
    return np.asarray(flat.reshape(len(joined), size))
