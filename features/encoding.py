"""From feature columns to the two arrays a model eats.

``numbers`` float32 [n, k]: the number columns, NaN for missing, then each tensor flattened.
``codes`` int64 [n, c]: one column a category; 0 missing, 1 not in the vocabulary, 2.. the vocabulary.

Scaling and missing-value indicators belong to the model graph, not here: this mapping depends on
the vocabularies alone.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts import Frozen
from cluster.errors import DataError
from features.definitions import Column

MISSING_CODE = 0
UNKNOWN_CODE = 1
FIRST_CODE = 2

Arrays = dict[str, np.ndarray]


class Encoder(Frozen):
    """Columns in order, and the vocabulary of each category in code order."""

    columns: tuple[Column, ...]
    vocabularies: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, columns: tuple[Column, ...], frame: pa.Table, min_count: int = 1) -> Self:
        """Learn the vocabularies of ``frame``; values seen less than ``min_count`` times stay unknown."""
        vocabularies = {}
        for column in columns:
            if column.kind != "category":
                continue
            counts = pc.value_counts(_column(frame, column.name).drop_null().cast(pa.string()))
            kept = [str(row["values"]) for row in counts.to_pylist() if row["counts"] >= min_count]
            vocabularies[column.name] = tuple(sorted(kept))
        return cls(columns=columns, vocabularies=vocabularies)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Number columns, in the order of ``numbers``' first columns."""
        return tuple(c.name for c in self.columns if c.kind == "number")

    @property
    def tensors(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.kind == "tensor")

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.kind == "category")

    @property
    def width(self) -> int:
        """Columns of ``numbers``, tensors included."""
        return len(self.numbers) + sum(math.prod(c.shape) for c in self.tensors)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each category, the two reserved ones included."""
        return tuple(len(self.vocabularies[name]) + FIRST_CODE for name in self.categories)

    @cached_property
    def _value_sets(self) -> dict[str, pa.Array]:
        return {name: pa.array(values, pa.string()) for name, values in self.vocabularies.items()}

    def encode(self, frame: pa.Table) -> Arrays:
        """Encode the columns of ``frame``. Raises DataError naming a column that is absent or mistyped."""
        numbers = np.empty((frame.num_rows, self.width), np.float32)
        for i, name in enumerate(self.numbers):
            numbers[:, i] = _floats(_column(frame, name), name)
        at = len(self.numbers)
        for column in self.tensors:
            size = math.prod(column.shape)
            numbers[:, at : at + size] = _flat(_column(frame, column.name), column, size)
            at += size
        codes = np.empty((frame.num_rows, len(self.categories)), np.int64)
        for i, name in enumerate(self.categories):
            codes[:, i] = self._codes(_column(frame, name), name)
        return {"numbers": numbers, "codes": codes}

    def _codes(self, values: pa.ChunkedArray, name: str) -> np.ndarray:
        index = pc.index_in(values.cast(pa.string()), value_set=self._value_sets[name])
        codes = pc.fill_null(pc.add(index, FIRST_CODE), UNKNOWN_CODE)
        return np.asarray(pc.if_else(values.is_null(), MISSING_CODE, codes), np.int64)


def _column(frame: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in frame.column_names:
        raise DataError(f"column {name!r} is missing", f"present are {', '.join(frame.column_names)}")
    return frame.column(name)


def _floats(values: pa.ChunkedArray, name: str) -> np.ndarray:
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
