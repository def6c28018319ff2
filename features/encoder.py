"""Encodes feature columns as the two arrays that a model takes.

``numbers`` float32 [n, k]: the number columns, NaN for missing, then each tensor flattened.
``codes`` int64 [n, c]: a column for each category; 0 missing, 1 not in the vocabulary, 2.. the vocabulary.

Scaling and missing-value indicators are part of the model graph: this mapping depends only on the vocabularies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
# Up to this number of rows, the fixed costs for each column outweigh those for each row.
_FEW_ROWS = 128

Arrays = dict[str, np.ndarray]
"""``numbers`` and ``codes``."""


class Encoder(Frozen):
    """The model's input columns in order, and the vocabulary of each category in the order of its codes."""

    columns: tuple[Column, ...]
    vocabularies: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, columns: tuple[Column, ...], frame: pa.Table, min_count: int = 1) -> Self:
        """Learn the vocabularies of a frame.

        Args:
            columns: The model's input columns.
            frame: Training rows.
            min_count: Rarer values stay unknown.

        Raises:
            DataError: A category column is missing.
        """
        vocabularies = {}
        for column in columns:
            if column.kind != "category":
                continue
            counts = pc.value_counts(_column(frame, column.name).drop_null().cast(pa.string()))
            values = [str(row["values"]) for row in counts.to_pylist() if row["counts"] >= min_count]
            vocabularies[column.name] = tuple(sorted(values))
        return cls(columns=columns, vocabularies=vocabularies)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Names of the number columns, which come first in ``numbers``."""
        return tuple(c.name for c in self.columns if c.kind == "number")

    @cached_property
    def tensors(self) -> tuple[Column, ...]:
        """The tensor columns."""
        return tuple(c for c in self.columns if c.kind == "tensor")

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Names of the category columns, in the order of ``codes``."""
        return tuple(c.name for c in self.columns if c.kind == "category")

    @cached_property
    def width(self) -> int:
        """Number of columns of ``numbers``, with tensors."""
        return len(self.numbers) + sum(math.prod(c.shape) for c in self.tensors)

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each category, with the two reserved ones."""
        return tuple(len(self.vocabularies[name]) + FIRST_CODE for name in self.categories)

    @cached_property
    def _code_maps(self) -> dict[str, dict[str | None, int]]:
        return {
            name: {None: MISSING_CODE} | {value: FIRST_CODE + i for i, value in enumerate(values)}
            for name, values in self.vocabularies.items()
        }

    def encode(self, frame: pa.Table) -> Arrays:
        """Encode a frame.

        Raises:
            DataError: A column is missing or has an unsuitable type.
        """
        if frame.num_rows <= _FEW_ROWS and (few := self._encode_few(frame)) is not None:
            return few
        numbers = np.empty((frame.num_rows, self.width), np.float32)
        _fill(numbers, [_floats(_column(frame, name), name) for name in self.numbers])
        for column, place in tensor_slices(self.tensors, len(self.numbers)):
            numbers[:, place] = _flat(_column(frame, column.name), column)
        codes = np.empty((frame.num_rows, len(self.categories)), np.int64)
        for i, name in enumerate(self.categories):
            codes[:, i] = self._codes(_column(frame, name), name)
        return {"numbers": numbers, "codes": codes}

    def _encode_few(self, frame: pa.Table) -> Arrays | None:
        """``encode`` with lower fixed costs, for frames of one chunk with float numbers; None for others."""
        pieces = frame.to_batches()
        if len(pieces) != 1 or self.tensors or (positions := self._positions(frame.schema)) is None:
            return None
        numbers = np.empty((frame.num_rows, self.width), np.float32)
        if self.numbers:
            numbers[:] = pieces[0].select(positions[0]).to_tensor(null_to_nan=True).to_numpy()
        codes = np.empty((frame.num_rows, len(self.categories)), np.int64)
        for i, (name, position) in enumerate(zip(self.categories, positions[1], strict=True)):
            known, values = self._code_maps[name], pieces[0].column(position).to_pylist()
            codes[:, i] = [known.get(value, UNKNOWN_CODE) for value in values]
        return {"numbers": numbers, "codes": codes}

    def _positions(self, schema: pa.Schema) -> tuple[list[int], list[int]] | None:
        """Positions of numbers and categories in a schema; None unless all are present as floats and texts."""
        for cached, positions in self._schema_cache:
            if cached.equals(schema):
                return positions
        types = dict(zip(schema.names, schema.types, strict=True))
        floats = all(name in types and pa.types.is_floating(types[name]) for name in self.numbers)
        texts = all(name in types and pa.types.is_string(types[name]) for name in self.categories)
        at = schema.get_field_index
        positions = ([at(n) for n in self.numbers], [at(n) for n in self.categories]) if floats and texts else None
        # All served frames have one schema.
        self._schema_cache[:] = [(schema, positions)]
        return positions

    @cached_property
    def _schema_cache(self) -> list[tuple[pa.Schema, tuple[list[int], list[int]] | None]]:
        return []

    def _codes(self, values: pa.ChunkedArray, name: str) -> np.ndarray:
        known = self._code_maps[name]
        encoded = _dictionary(values)
        table = [known.get(value, UNKNOWN_CODE) for value in encoded.dictionary.to_pylist()]
        # Null has no index; -1 selects the last entry.
        return np.array([*table, MISSING_CODE], np.int64)[encoded.indices.fill_null(-1).to_numpy()]


def _fill(rows: np.ndarray, columns: list[np.ndarray]) -> None:
    """Write ``columns`` into the first columns of ``rows``, a few rows at a time, which stay in the core's cache."""
    for start in range(0, len(rows), _FILL_ROWS):
        part = slice(start, start + _FILL_ROWS)
        for column, values in zip(rows[part].T, columns, strict=False):
            column[:] = values[part]


def tensor_slices(tensors: Iterable[Column], numbers: int) -> Iterator[tuple[Column, slice]]:
    """Yield each tensor, and the columns of the array ``numbers`` that it fills.

    Args:
        tensors: The tensor columns, in order.
        numbers: How many number columns come first.
    """
    at = numbers
    for column in tensors:
        start, at = at, at + math.prod(column.shape)
        yield column, slice(start, at)


def _column(frame: pa.Table, name: str) -> pa.ChunkedArray:
    if frame.schema.get_field_index(name) < 0:
        raise DataError("data.missing_columns", table="the frame", columns=[name], present=frame.column_names)
    return frame.column(name)


def _dictionary(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """The values as dictionary-encoded text; values that are dictionary-encoded keep their codes."""
    if pa.types.is_dictionary(values.type) and values.num_chunks == 1:
        chunk = values.chunk(0)
        return pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.string()))
    text = values if pa.types.is_string(values.type) else values.cast(pa.string())
    return text.combine_chunks().dictionary_encode()


def _floats(values: pa.ChunkedArray, name: str) -> np.ndarray:
    if pa.types.is_floating(values.type):
        # Twice as fast as to_numpy, which also converts null to NaN.
        filled = pc.fill_null(values, math.nan) if values.null_count else values
        return np.asarray(filled.to_numpy())
    try:
        return np.asarray(values.cast(pa.float32(), safe=False).to_numpy())
    except pa.ArrowInvalid as error:
        raise DataError("data.not_a_number", where="the frame", column=name, type=str(values.type)) from error


def _flat(values: pa.ChunkedArray, column: Column) -> np.ndarray:
    joined, size = values.combine_chunks(), math.prod(column.shape)
    flat = joined.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    if joined.null_count or flat.size != len(joined) * size:
        raise DataError("data.tensor_shape", column=column.name, shape=column.shape)
    return np.asarray(flat.reshape(len(joined), size))
