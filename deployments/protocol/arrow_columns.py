"""JSON values to typed Arrow columns. Each error names the field, down to the value at fault. Pure.

number      float64; null and NaN are missing; infinities and values beyond float32 are refused
category    string; null is missing
timestamp   timestamp[us, UTC] from ISO 8601 text (without an offset: UTC) or integer microseconds; never null
tensor      list of float32, flattened in row-major order; never null
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import RequestError
from features.definitions import Column, FeatureSet

MAX_NUMBER = float(np.finfo(np.float32).max)
TIMESTAMP = pa.timestamp("us", tz="UTC")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MISTYPED = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError)
# Years 1 to 9999, the range of datetime and Polars.
_FIRST_US = -62_135_596_800_000_000
_LAST_US = 253_402_300_799_999_999
_FIRST, _LAST = np.datetime64(_FIRST_US, "us"), np.datetime64(_LAST_US, "us")


def required_columns(features: FeatureSet) -> frozenset[str]:
    """Names of the request columns that may not be null, because ``as_of`` is computed from them."""
    return frozenset(features.as_of.expr.meta.root_names()) if features.as_of else frozenset()


def build_column(
    column: Column, values: Sequence[Any], field: str, *, kind: pa.DataType | None = None, required: bool = False
) -> pa.Array:
    """Build a request column from JSON values.

    Args:
        column: Its definition.
        values: One value a row.
        field: Where in the request the values are, for errors.
        kind: The stricter Arrow type that a number was declared with.
        required: Whether nulls are refused.

    Raises:
        RequestError: A value has the wrong type or range; names ``field[i]``.
    """
    if column.kind == "number":
        array = _numbers(values, field, kind)
    elif column.kind == "category":
        array = _build_array(values, pa.string(), field, "text or null")
    elif column.kind == "timestamp":
        return pa.array([parse_timestamp(value, f"{field}[{i}]") for i, value in enumerate(values)], TIMESTAMP)
    else:
        return _tensors(column, values, field)
    return _check_nulls(column, array, field) if required else array


def convert_column(column: Column, values: pa.Array, field: str, *, required: bool = False) -> pa.Array:
    """Build a request column from an array that came in binary, where NaN stands for a missing number.

    Args and errors are those of ``build_column``.
    """
    if column.kind == "timestamp" and pa.types.is_integer(values.type):
        return _instants(values, field)
    if column.kind == "number":
        if (clean := _clean_floats(values)) is not None:
            return clean
        array = pc.if_else(pc.is_nan(values), None, values) if pa.types.is_floating(values.type) else values
        array = (array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array).cast(pa.float64(), safe=False)
        _check_range(array, field)
        return _check_nulls(column, array, field) if required else array
    if column.kind == "tensor":
        return _tensor_array(column, values.cast(pa.float32(), safe=False), field)
    if column.kind == "category" and pa.types.is_string(values.type) and not values.null_count:
        return values
    return build_column(column, values.to_pylist(), field, required=required)


def number_array(values: Sequence[Any]) -> pa.Array | None:
    """Values as a number column, or None when one does not fit."""
    try:
        array = pa.array(values, pa.float64(), from_pandas=True)
    except _MISTYPED:
        return None
    return None if _beyond(array).any() else array


def text_array(values: Sequence[Any]) -> pa.Array | None:
    """Values as a category column, or None when one does not fit."""
    try:
        return pa.array(values, pa.string(), from_pandas=True)
    except _MISTYPED:
        return None


def parse_timestamp(value: object, field: str) -> int:
    """Microseconds since the epoch, UTC, of ISO 8601 text or integer microseconds. Raises RequestError."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            at = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError) as error:
            raise RequestError("request.malformed_time", field=field, value=_abbreviate(value)) from error
    elif isinstance(value, int) and not isinstance(value, bool):
        at = value
    else:
        raise RequestError("request.malformed_time", field=field, value=_abbreviate(value))
    if not _FIRST_US <= at <= _LAST_US:
        raise RequestError("request.time_out_of_range", field=field, time="the time")
    return at


def wrong_shape(field: str, expected: str) -> RequestError:
    """The error of a part of a request that has another shape than expected."""
    return RequestError("request.wrong_shape", field=field, expected=expected)


def _numbers(values: Sequence[Any], field: str, kind: pa.DataType | None) -> pa.Array:
    array = _build_array(values, kind or pa.float64(), field, f"{kind or 'a number'} or null")
    if kind is not None and kind != pa.float64():
        # Booleans have no direct cast to float64.
        array = (array.cast(pa.int8()) if kind == pa.bool_() else array).cast(pa.float64(), safe=False)
    _check_range(array, field)
    return array


def _clean_floats(values: pa.Array) -> pa.Array | None:
    """Floats without nulls, all in range, as float64, which need no further checks; else None."""
    if not pa.types.is_floating(values.type) or values.null_count:
        return None
    wide = values.to_numpy().astype(np.float64)
    # False for NaN too; a sum would be cheaper, and overflow.
    return pa.array(wide) if (np.abs(wide) <= MAX_NUMBER).all() else None


def _check_range(array: pa.Array, field: str) -> None:
    beyond = _beyond(array)
    if beyond.any():
        raise RequestError("request.number_out_of_range", field=f"{field}[{int(np.argmax(beyond))}]", limit=MAX_NUMBER)


def _beyond(numbers: pa.Array) -> np.ndarray:
    """Mask of the float64 numbers that float32 cannot hold."""
    return np.abs(numbers.to_numpy(zero_copy_only=False)) > MAX_NUMBER


def _check_nulls(column: Column, array: pa.Array, field: str) -> pa.Array:
    if array.null_count:
        raise RequestError("request.null_not_allowed", field=field, column=column.name)
    return array


def _instants(values: pa.Array, field: str) -> pa.Array:
    moments = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    beyond = (moments < _FIRST_US) | (moments > _LAST_US)
    if beyond.any():
        raise RequestError("request.time_out_of_range", field=f"{field}[{int(np.argmax(beyond))}]", time="the time")
    return pa.array(moments, TIMESTAMP)


def find_unsupported_time(moments: np.ndarray) -> int | None:
    """Index of the first datetime64[us] outside of the years 1 to 9999, or None; NaT is allowed."""
    beyond = (moments < _FIRST) | (moments > _LAST)
    return int(np.argmax(beyond)) if beyond.any() else None


def _build_array(values: Sequence[Any], kind: pa.DataType, field: str, expected: str) -> pa.Array:
    try:
        return _array(values, kind)
    except _MISTYPED as error:
        at = next((i for i, value in enumerate(values) if not _converts(value, kind)), 0)
        value = _abbreviate(values[at])
        raise RequestError("request.wrong_type", field=f"{field}[{at}]", expected=expected, value=value) from error


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    # Arrow silently truncates a float in an integer column.
    if pa.types.is_integer(kind) and any(isinstance(value, float) for value in values):
        raise pa.ArrowInvalid("floating-point value in an integer column")
    return pa.array(values, kind, from_pandas=True)


def _converts(value: object, kind: pa.DataType) -> bool:
    try:
        _array([value], kind)
    except _MISTYPED:
        return False
    return True


def _tensors(column: Column, values: Sequence[Any], field: str) -> pa.Array:
    flat = [value for i, row in enumerate(values) for value in _flatten(row, column.shape, f"{field}[{i}]")]
    return _tensor_array(column, _build_array(flat, pa.float32(), field, "a finite number"), field)


def _tensor_array(column: Column, numbers: pa.Array, field: str) -> pa.Array:
    if numbers.null_count or not np.isfinite(numbers.to_numpy(zero_copy_only=False)).all():
        raise RequestError("request.tensor_not_finite", field=field)
    return pa.FixedSizeListArray.from_arrays(numbers, math.prod(column.shape)).cast(pa.list_(pa.float32()))


def _flatten(row: object, shape: tuple[int, ...], field: str) -> list[Any]:
    """One row's values as a flat list, from a flat list or one nested according to ``shape``."""
    expected = f"an array of shape {list(shape)}"
    if not isinstance(row, list):
        raise wrong_shape(field, expected)
    if len(shape) == 1 or (len(row) == math.prod(shape) and not isinstance(row[0], list)):
        if len(row) != math.prod(shape):
            raise wrong_shape(field, f"{expected}, got {len(row)} values")
        return row
    if len(row) != shape[0]:
        raise wrong_shape(field, f"{expected}, got {len(row)} entries")
    return list(chain.from_iterable(_flatten(part, shape[1:], f"{field}[{i}]") for i, part in enumerate(row)))


def _abbreviate(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
