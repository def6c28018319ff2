"""Mergeable profiles of a frame, of training data or of live traffic.

A profile is small regardless of the traffic, and merges in any order: counts are exact, moments are exact up to
rounding, quantiles and category counts keep the error bounds of their sketches (features/profiles/column_sketches.py).
Number and category columns have one summary each; a tensor has two, of the mean and of the standard deviation of each
row; timestamps are not profiled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import DataError, ProjectError
from cluster.values import Stored, Task
from features.definitions import Column
from features.profiles.column_sketches import (
    MAX_MAGNITUDE,
    MAX_VALUE_CHARS,
    CategorySummary,
    Count,
    NumberSummary,
)

_NUMBER_TYPES = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
_CATEGORY_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)


class _ProfileRecord(Stored, stored_as="profile"):
    rows: Count
    columns: tuple[Column, ...]
    numbers: dict[str, NumberSummary]
    categories: dict[str, CategorySummary]


@dataclass(eq=False)
class Profile:
    """Summaries of the columns of a frame.

    Attributes:
        columns: The profiled columns.
        numbers: Summary of each number column; a tensor column ``x`` has ``x.mean`` and ``x.std``.
        categories: Summary of each category column.
        rows: Number of rows.
    """

    columns: tuple[Column, ...]
    numbers: dict[str, NumberSummary]
    categories: dict[str, CategorySummary]
    rows: int = 0

    @classmethod
    def empty(cls, columns: tuple[Column, ...]) -> Self:
        """Create a profile without rows; timestamp columns are left out."""
        columns = tuple(c for c in columns if c.kind != "timestamp")
        numbers, categories = _series(columns)
        return cls(columns, {n: NumberSummary() for n in numbers}, {n: CategorySummary() for n in categories})

    def update(self, frame: pa.Table) -> None:
        """Add the rows of ``frame``. Missing columns are skipped; cells of a wrong type are counted as mistyped."""
        present = set(frame.column_names)
        for column in self.columns:
            if column.name in present:
                self._add(column, frame.column(column.name))
        self.rows += frame.num_rows

    def merge(self, other: Profile) -> None:
        """Add the rows of another profile.

        Raises:
            DataError: It has other columns.
        """
        if other.columns != self.columns:
            raise DataError(
                "data.profile_columns_differ", columns=_names(self.columns), other_columns=_names(other.columns)
            )
        for name, number in self.numbers.items():
            number.merge(other.numbers[name])
        for name, category in self.categories.items():
            category.merge(other.categories[name])
        self.rows += other.rows

    def select_columns(self, columns: tuple[Column, ...]) -> Profile:
        """Return the profile of other columns of the same rows; columns that this profile lacks are empty.

        The summaries are shared with this profile, not copied.
        """
        selected = Profile.empty(columns)
        present = set(self.columns)
        numbers, categories = _series(tuple(c for c in selected.columns if c in present))
        selected.numbers |= {name: self.numbers[name] for name in numbers}
        selected.categories |= {name: self.categories[name] for name in categories}
        selected.rows = self.rows
        return selected

    def to_bytes(self) -> bytes:
        """Serialize as JSON, sketches in base64."""
        return _ProfileRecord(**vars(self)).model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises:
            DataError: ``data`` is not a profile, or a newer version wrote it.
        """
        try:
            record = _ProfileRecord.from_stored(data)
            if any(category.other < 0 for category in record.categories.values()):
                raise ValueError("the listed counts exceed the total")
        except (ProjectError, ValueError, RuntimeError, IndexError) as error:
            raise DataError("data.invalid_profile", size=len(data), reason=str(error).splitlines()[0]) from error
        if (tuple(record.numbers), tuple(record.categories)) != _series(record.columns):
            raise DataError("data.invalid_profile", size=len(data), reason="the summaries do not match the columns")
        return cls(record.columns, record.numbers, record.categories, record.rows)

    def _add(self, column: Column, values: pa.ChunkedArray) -> None:
        if column.kind == "number":
            _add_numbers(self.numbers[column.name], values)
        elif column.kind == "category":
            _add_categories(self.categories[column.name], values)
        else:
            mean, std = self.numbers[f"{column.name}.mean"], self.numbers[f"{column.name}.std"]
            _add_tensors(mean, std, values, math.prod(column.shape))


@lru_cache
def _series(columns: tuple[Column, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the number summaries and of the category summaries of ``columns``."""
    numbers: list[str] = []
    for column in columns:
        if column.kind == "number":
            numbers.append(column.name)
        elif column.kind == "tensor":
            numbers += [f"{column.name}.mean", f"{column.name}.std"]
    return tuple(numbers), tuple(c.name for c in columns if c.kind == "category")


def output_column(task: Task) -> Column:
    """Return the column under which a model's output is profiled."""
    multiclass = task.kind == "multiclass"
    return Column(name="predicted", kind="category") if multiclass else Column(name="score", kind="number")


def append_output(frame: pa.Table, task: Task, scores: np.ndarray) -> pa.Table:
    """Append a model's output to its rows, for a profile: predicted classes, or scores.

    Args:
        frame: Rows.
        task: Task of the model.
        scores: Scores of the rows, as ``cluster.values.Task`` describes them.
    """
    multiclass = task.kind == "multiclass"
    output = np.asarray(task.classes)[scores.argmax(axis=1)] if multiclass else scores.astype(np.float64)
    return frame.append_column(output_column(task).name, pa.array(output))


def _add_numbers(summary: NumberSummary, values: pa.ChunkedArray) -> None:
    if any(is_type(values.type) for is_type in _NUMBER_TYPES):
        summary.add(values.cast(pa.float64(), safe=False).to_numpy())
    else:
        summary.nulls += values.null_count
        summary.mistyped += len(values) - values.null_count


def _add_categories(summary: CategorySummary, values: pa.ChunkedArray) -> None:
    summary.nulls += values.null_count
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if any(is_type(kind) for is_type in _CATEGORY_TYPES):
        text = pc.utf8_slice_codeunits(values.drop_null().cast(pa.string()), 0, MAX_VALUE_CHARS)
        counted = pc.value_counts(text)
        summary.add(dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))
    elif not pa.types.is_null(kind):
        summary.mistyped += len(values) - values.null_count


def _add_tensors(mean: NumberSummary, std: NumberSummary, values: pa.ChunkedArray, size: int) -> None:
    rows = _tensor_rows(values.drop_null(), size)
    wrong = len(values) - values.null_count - len(rows)
    for summary in (mean, std):
        summary.nulls += values.null_count
        summary.mistyped += wrong
    mean.add(rows.mean(axis=1))
    std.add(rows.std(axis=1))


def _tensor_rows(values: pa.ChunkedArray, size: int) -> np.ndarray:
    """Rows that are lists of ``size`` numbers, float64 [rows, size]; other rows are left out."""
    joined = values.combine_chunks()
    kind = joined.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
        return np.empty((0, size))
    fitting = joined.filter(pc.equal(pc.list_value_length(joined), size))
    flat = fitting.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where(np.abs(flat) <= MAX_MAGNITUDE, flat, np.nan).reshape(len(fitting), size)


def _names(columns: tuple[Column, ...]) -> str:
    return ", ".join(c.name for c in columns)
