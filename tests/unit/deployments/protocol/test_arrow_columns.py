"""JSON values become typed columns, and each refusal names the value at fault."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from cluster.errors import RequestError
from deployments.protocol.arrow_columns import (
    MAX_NUMBER,
    TIMESTAMP,
    build_column,
    convert_column,
    number_array,
    parse_timestamp,
    text_array,
)
from features.definitions import Column
from tests.factories.errors import raises

NUMBER = Column(name="distance", kind="number")


def tensor(*shape: int) -> Column:
    return Column(name="pixels", kind="tensor", shape=shape)


def test_build_column_with_nulls_is_refused_only_where_required() -> None:
    assert build_column(NUMBER, [1, None, math.nan], "x").to_pylist() == [1.0, None, None]
    assert build_column(NUMBER, [1, 2.5], "x", required=True).to_pylist() == [1.0, 2.5]
    with raises(RequestError, "request.null_not_allowed", column="distance"):
        build_column(NUMBER, [1, None], "x", required=True)


def test_build_column_of_numbers_is_float64_up_to_the_largest_float32() -> None:
    for values in ([1, 2], [True, False], [None, None], [MAX_NUMBER, -MAX_NUMBER]):
        assert build_column(NUMBER, values, "x").type == pa.float64()
    for beyond in (math.nextafter(MAX_NUMBER, math.inf), math.nextafter(-MAX_NUMBER, -math.inf)):
        with raises(RequestError, "request.number_out_of_range") as caught:
            build_column(NUMBER, [0.0, beyond], "x")
        assert caught.value.field == "x[1]"
        assert number_array([0.0, beyond]) is None


def test_number_array_and_text_array_read_missing_values_and_leave_misfits() -> None:
    numbers, texts = number_array([1, None, math.nan]), text_array(["a", None])
    assert numbers is not None
    assert texts is not None
    assert (numbers.to_pylist(), texts.to_pylist()) == ([1.0, None, None], ["a", None])
    assert (number_array(["1"]), text_array([1])) == (None, None)


@pytest.mark.parametrize(
    ("shape", "row", "flat"),
    [
        ((3,), [1, 2, 3], [1.0, 2.0, 3.0]),
        ((2, 2), [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]),
        ((2, 2), [[1, 2], [3, 4]], [1.0, 2.0, 3.0, 4.0]),
        # As many entries nested as flat.
        ((2, 1), [[1], [2]], [1.0, 2.0]),
        ((1, 1), [[5]], [5.0]),
        ((1, 1), [5], [5.0]),
    ],
)
def test_build_column_of_a_tensor_reads_rows_flat_or_nested(shape: tuple[int, ...], row: list, flat: list) -> None:
    assert build_column(tensor(*shape), [row], "x").to_pylist() == [flat]


@pytest.mark.parametrize(
    ("shape", "row", "field"),
    [
        ((3,), [1, 2], "x[0]"),
        ((2, 2), [[1, 2], [3]], "x[0][1]"),
        ((2, 2), [[1, 2]], "x[0]"),
        ((2, 2), 7, "x[0]"),
        ((2, 2), [[1, 2], 7], "x[0][1]"),
    ],
)
def test_build_column_of_a_tensor_of_another_shape_names_the_part(
    shape: tuple[int, ...], row: list, field: str
) -> None:
    with raises(RequestError, "request.wrong_shape") as caught:
        build_column(tensor(*shape), [row], "x")
    assert caught.value.field == field


def test_convert_column_of_nan_is_null_unless_required() -> None:
    values = pa.array([1.0, math.nan])
    assert convert_column(NUMBER, values, "x").to_pylist() == [1.0, None]
    with raises(RequestError, "request.null_not_allowed", column="distance"):
        convert_column(NUMBER, values, "x", required=True)


@pytest.mark.parametrize(
    ("value", "us"),
    [
        (0, 0),
        ("1970-01-01T00:00:01", 1_000_000),
        ("1970-01-01T02:00:00+02:00", 0),
        (-62_135_596_800_000_000, -62_135_596_800_000_000),
        (253_402_300_799_999_999, 253_402_300_799_999_999),
    ],
)
def test_parse_timestamp_returns_microseconds_of_utc(value: object, us: int) -> None:
    assert parse_timestamp(value, "x") == us


@pytest.mark.parametrize("value", [-62_135_596_800_000_001, 253_402_300_800_000_000])
def test_times_outside_of_years_1_to_9999_are_refused(value: int) -> None:
    with raises(RequestError, "request.time_out_of_range"):
        parse_timestamp(value, "x")
    departs = Column(name="departs", kind="timestamp")
    with raises(RequestError, "request.time_out_of_range") as caught:
        convert_column(departs, pa.array([0, value]), "x")
    assert caught.value.field == "x[1]"
    assert convert_column(departs, pa.array([0]), "x").type == TIMESTAMP
