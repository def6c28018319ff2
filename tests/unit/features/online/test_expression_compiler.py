"""Compiled request-time features equal those of Polars bit for bit."""

from __future__ import annotations

import operator
import struct
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples.flights.features import features as flights
from features.builders import category, derive, number, timestamp
from features.definitions import Derived, FeatureSet
from features.derived_columns import request_features
from features.online.expression_compiler import FallbackRequired, compile_derived
from features.online.feature_reader import FeatureReader
from features.types import INSTANT
from tests.factories.effort import examples
from tests.factories.features.stores import MemoryStore

COLUMNS = (*timestamp("t", "u"), *number("x", "y"), *category("c"))
T, U, X, Y = pl.col("t"), pl.col("u"), pl.col("x"), pl.col("y")
ZONES = ("UTC", "America/New_York", "Europe/Dublin", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca")
PARTS = ("second", "minute", "hour", "weekday", "day", "month", "year", "ordinal_day")


def at(*parts: int) -> int:
    return round(datetime(*parts, tzinfo=UTC).timestamp() * 1e6)


_instant = st.one_of(
    st.none(),
    st.integers(at(1901, 1, 1), at(2200, 1, 1)),
    # Around a clock change, to the microsecond.
    st.builds(
        lambda day, us: at(2013, 11, 3, 4) + day * 86_400_000_000 + us,
        st.integers(-250, 250), st.integers(0, 4 * 3_600_000_000),
    ),
    st.sampled_from([
        0, -1, at(2013, 11, 3, 6), at(2013, 11, 3, 6) - 1, at(2013, 3, 10, 7), at(1, 1, 1), at(9999, 12, 31, 23, 59),
    ]),
)  # fmt: skip
_number = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -0.0, 1.0]))
rows = st.fixed_dictionaries({
    "t": _instant, "u": _instant, "x": _number, "y": _number, "c": st.sampled_from(["u", "", None])
})  # fmt: skip


def _local(zone: str) -> pl.Expr:
    return T.dt.convert_time_zone(zone) if zone != "UTC" else T


_parts = st.builds(lambda zone, part: getattr(_local(zone).dt, part)(), st.sampled_from(ZONES), st.sampled_from(PARTS))
_integers = st.recursive(
    _parts,
    lambda inner: st.one_of(
        st.builds(lambda a, n: a * n, inner, st.integers(-9, 60)),
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, kind: a.cast(kind), inner, st.sampled_from([pl.Int16, pl.Int32, pl.Int64])),
    ),
    max_leaves=4,
)
_units = st.sampled_from(["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"])
_lengths = st.one_of(
    st.builds(lambda unit: getattr((T - U).dt, f"total_{unit}")(), _units),
    st.builds(lambda unit: getattr((T - U).dt, f"total_{unit}")(fractional=True), _units),
)
_comparisons = st.sampled_from([operator.eq, operator.ne, operator.gt, operator.ge, operator.lt, operator.le])
_divisors = st.one_of(st.integers(-9, 90), st.floats(-100, 100), st.sampled_from([0, 0.0, -0.0, 86_400_000_000]))
_conditions = st.one_of(
    st.builds(lambda do, a, b: do(a, b), _comparisons, st.sampled_from([X, Y]), st.sampled_from([X, Y, pl.lit(1)])),
    st.builds(lambda do, part, n: do(part, n), _comparisons, _parts, st.integers(0, 60)),
    st.builds(lambda do, text: do(pl.col("c"), text), _comparisons, st.sampled_from(["u", ""])),
    st.sampled_from([X.is_null(), T.is_not_null(), pl.col("c").is_null()]),
)
_floats = st.recursive(
    st.one_of(
        st.just(X),
        st.just(Y),
        _lengths,
        _integers.map(lambda e: e.cast(pl.Float64)),
        st.builds(lambda e, n: e / n, _integers, _divisors),
    ),
    lambda inner: st.one_of(
        st.builds(lambda a, n: a / n, inner, _divisors),
        st.builds(lambda a, n: n / a, inner, _divisors),
        st.builds(lambda a, n: n - a, inner, st.sampled_from([0, -0.0, 1, 1.5])),
        st.builds(lambda a, n: a * n, inner, st.sampled_from([0, -0.0, 1, -1, 1.5])),
        st.builds(lambda a, n: a.fill_null(n), inner, st.one_of(st.integers(-5, 5), st.floats(-2, 2))),
        st.builds(lambda a, b: pl.coalesce(a, b), inner, inner),
        st.builds(lambda c, a, b: pl.when(c).then(a).otherwise(b), _conditions, inner, inner),
        st.builds(lambda c, a, n: pl.when(c).then(a).otherwise(n), _conditions, inner, st.sampled_from([0, 1.5, None])),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a / b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, n: a + n, inner, st.one_of(st.integers(-5, 5), st.floats(-2, 2))),
    ),
    max_leaves=4,
)
_shifted = st.builds(lambda us: T - pl.duration(microseconds=us), st.integers(-(10**13), 10**13))
features = st.one_of(
    st.builds(lambda e: derive("f", e, "category"), _integers),
    st.builds(lambda e: derive("f", e, "number"), st.one_of(_integers, _floats, _lengths, _conditions)),
    st.builds(lambda e: derive("f", e.cast(pl.Int8), "category"), _conditions),
    st.builds(lambda e: derive("f", e, "timestamp"), _shifted),
)


def by_polars(derived: Derived, row: dict) -> object:
    schema = {"t": pl.Int64, "u": pl.Int64, "x": pl.Float64, "y": pl.Float64, "c": pl.String}
    frame = pl.DataFrame([row], schema=schema).with_columns(pl.col("t", "u").cast(INSTANT))
    features = FeatureSet(name="set", request=COLUMNS, derived=(derived,))
    # Among others, as in training; a row by itself has the same bits.
    columns = [
        request_features(features, rows, 0).get_column("f") for rows in (pl.concat([frame, frame.clear(1)]), frame)
    ]
    among, alone = [(c.to_physical() if derived.kind == "timestamp" else c)[0] for c in columns]
    assert same(among, alone)
    return among


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("<d", one) == struct.pack("<d", other) or (one != one and other != other)
    return type(one) is type(other) and one == other


@given(features, rows)
@settings(max_examples=examples(1500), deadline=None)
@example(
    derive("f", (T.dt.hour() * 60).cast(pl.Int32), "number"),
    {"t": at(2020, 1, 1, 20), "u": 0, "x": 1.0, "y": 1.0, "c": ""},
)
def test_compiled_expression_equals_polars_bit_for_bit(derived: Derived, row: dict) -> None:
    run = compile_derived(derived, COLUMNS)
    if run is None:
        return
    try:
        value = run(row)
    except FallbackRequired:
        return
    assert same(value, by_polars(derived, row))


@pytest.mark.parametrize("derived", [*flights.derived, flights.as_of], ids=lambda derived: derived.name)
def test_flights_features_are_compiled(derived: Derived) -> None:
    run = compile_derived(derived, flights.request)
    for hour in range(0, 24 * 365, 7):
        run({"scheduled_at": at(2013, 1, 1) + hour * 3_600_000_000})


@pytest.mark.parametrize(
    "expression", [X.log1p(), pl.when(X > 1).then(1).otherwise(0), X.cast(pl.String), X // 2, T.dt.week()]
)
def test_unsupported_expression_is_left_to_polars(expression: pl.Expr) -> None:
    assert compile_derived(derive("f", expression), COLUMNS) is None
    reader = FeatureReader(
        FeatureSet(name="s", request=COLUMNS, derived=(derive("f", expression.cast(pl.Float64, strict=False)),)),
        MemoryStore(),
    )
    row = {"t": [at(2020, 5, 1)], "u": [0], "x": [7.5], "y": [2.0], "c": [None]}
    table = pl.DataFrame(row, schema_overrides={"c": pl.String}).with_columns(pl.col("t", "u").cast(INSTANT)).to_arrow()
    frame = reader.read(table, 0)
    assert frame.column("f").to_pylist() == [
        by_polars(derive("f", expression.cast(pl.Float64, strict=False)), {k: v[0] for k, v in row.items()})
    ]


def test_row_with_overflow_is_left_to_polars() -> None:
    """Twenty hours of sixty minutes are more than an Int8 holds; Polars wraps around."""
    derived = derive("f", T.dt.hour() * 60)
    row = {"t": at(2020, 1, 1, 20), "u": 0, "x": 1.0, "y": 1.0, "c": ""}
    with pytest.raises(FallbackRequired):
        compile_derived(derived, COLUMNS)(row)
    reader = FeatureReader(FeatureSet(name="set", request=COLUMNS, derived=(derived,)), MemoryStore())
    table = pl.DataFrame([row]).with_columns(pl.col("t", "u").cast(INSTANT)).to_arrow()
    assert reader.read(table, 0).column("f").to_pylist() == [by_polars(derived, row)]


@pytest.mark.parametrize("expression", ["{}", '"Len"', "[1]", '{"Column": "x", "Alias": "y"}', '{"Column": "other"}'])
def test_expression_of_unknown_form_is_left_to_polars(expression: str) -> None:
    derived = Derived.model_construct(name="f", kind="number", expression=expression)
    assert compile_derived(derived, COLUMNS) is None


@pytest.mark.parametrize(
    ("kind", "literal", "compiled"),
    [
        (pl.Int16, 2**15 - 1, True),
        (pl.Int16, 2**15, False),
        (pl.Int16, -(2**15), True),
        (pl.Int16, -(2**15) - 1, False),
    ],
)
def test_integer_literal_is_compiled_where_the_other_side_holds_it(kind: type, literal: int, compiled: bool) -> None:
    derived = derive("f", T.dt.hour().cast(kind) + pl.lit(literal), "number")
    run = compile_derived(derived, COLUMNS)
    assert (run is not None) is compiled
    if run is not None:
        assert run({"t": 0}) == float(literal)
