"""Profiles: what is counted, and that merged profiles equal the profile of all rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from cluster.values import Task
from features.definitions import Column
from features.profiles.column_sketches import MAX_CATEGORIES, MAX_VALUE_CHARS, SKETCH_K, CategorySummary, NumberSummary
from features.profiles.profile import Profile, append_output
from tests.factories.effort import examples
from tests.factories.errors import raises

NUMBER = Column(name="x", kind="number")
CATEGORY = Column(name="c", kind="category")
TENSOR = Column(name="t", kind="tensor", shape=(2, 2))
COLUMNS = (NUMBER, CATEGORY, TENSOR)

cells = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
values = st.one_of(st.none(), st.sampled_from(["a", "b", "c", ""]))
parts = st.lists(st.lists(st.tuples(cells, values), max_size=30), min_size=1, max_size=6)


def frame(rows: list[tuple[float | None, str | None]]) -> pa.Table:
    numbers, categories = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"x": pa.array(numbers, pa.float64()), "c": pa.array(categories, pa.string())})


def profile(table: pa.Table, columns: tuple[Column, ...] = COLUMNS) -> Profile:
    result = Profile.empty(columns)
    result.update(table)
    return result


def merged(profiles: list[Profile]) -> Profile:
    total = Profile.empty(COLUMNS)
    for part in profiles:
        total.merge(part)
    return total


def assert_same(left: Profile, right: Profile) -> None:
    assert left.rows == right.rows
    a, b = left.numbers["x"], right.numbers["x"]
    assert (a.count, a.nulls, a.infinite, a.mistyped) == (b.count, b.nulls, b.infinite, b.mistyped)
    if a.count:
        assert (a.min, a.max) == (b.min, b.max)
        scale = max(abs(a.min), abs(a.max), 1e-300)
        assert a.mean == pytest.approx(b.mean, rel=1e-9, abs=1e-9 * scale)
        assert a.std == pytest.approx(b.std, rel=1e-6, abs=1e-7 * scale)
        assert np.array_equal(a.quantiles((0.1, 0.5, 0.9)), b.quantiles((0.1, 0.5, 0.9)))
    assert left.categories["c"] == right.categories["c"]


@settings(deadline=None)
@given(parts=parts, order=st.randoms(use_true_random=False))
def test_merge_in_any_split_and_order_gives_equal_profile(parts, order):
    whole = profile(frame([row for part in parts for row in part]))
    profiles = [profile(frame(part)) for part in parts]
    order.shuffle(profiles)
    assert_same(merged(profiles), whole)


@settings(deadline=None)
@given(parts=parts)
def test_merge_is_associative_and_keeps_its_arguments(parts):
    left = merged([profile(frame(part)) for part in parts])
    right = merged([Profile.from_bytes(profile(frame(part)).to_bytes()) for part in parts])
    total = merged([left, right])
    assert_same(left, right)
    assert total.rows == 2 * left.rows


@settings(deadline=None)
@given(parts=parts)
def test_profile_bytes_round_trip(parts):
    original = profile(frame([row for part in parts for row in part]))
    again = Profile.from_bytes(original.to_bytes())
    assert_same(again, original)
    assert again.columns == original.columns
    assert again.to_bytes() == original.to_bytes()


def test_quantiles_of_merged_profiles_are_within_sketch_error():
    rng = np.random.default_rng(7)
    data = rng.lognormal(0, 2, 200_000)
    total = Profile.empty((NUMBER,))
    for part in np.array_split(data, 400):
        total.merge(profile(pa.table({"x": part}), (NUMBER,)))
    ranks = np.linspace(0.01, 0.99, 99)
    true_ranks = np.searchsorted(np.sort(data), total.numbers["x"].quantiles(ranks)) / data.size
    # 99 % of sketches are within 0.7 %; the maximum over this one is given twice that.
    assert np.abs(true_ranks - ranks).max() < 0.014


def test_small_columns_have_exact_distributions():
    data = np.arange(SKETCH_K, dtype=float)
    summary = profile(pa.table({"x": data}), (NUMBER,)).numbers["x"]
    edges = np.array([9.0, 99.0])
    assert summary.cdf(edges) == pytest.approx([10 / SKETCH_K, 100 / SKETCH_K])


def test_empty_summary_gives_zeros():
    summary = NumberSummary()
    assert summary.cdf(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]
    assert summary.quantiles((0.5,)).size == 0
    assert math.isnan(summary.std)


@pytest.mark.parametrize(
    ("cell", "counted"),
    [
        (pa.array([None, float("nan")], pa.float64()), (0, 2, 0, 0)),
        (pa.array([float("inf"), -float("inf"), 1e300]), (0, 0, 3, 0)),
        (pa.array([1, None], pa.int64()), (1, 1, 0, 0)),
        (pa.array([True, False]), (2, 0, 0, 0)),
        (pa.array([None, None]), (0, 2, 0, 0)),
        (pa.array(["1", None]), (0, 1, 0, 1)),
        (pa.array([[1.0], None]), (0, 1, 0, 1)),
    ],
)
def test_number_cells_are_counted_by_type(cell, counted):
    summary = profile(pa.table({"x": cell}), (NUMBER,)).numbers["x"]
    assert (summary.count, summary.nulls, summary.infinite, summary.mistyped) == counted


@pytest.mark.parametrize(
    ("cell", "counted"),
    [
        (pa.array(["a", None, "a"]), ({"a": 2}, 1, 0)),
        (pa.array(["a", None, "a"]).dictionary_encode(), ({"a": 2}, 1, 0)),
        (pa.array([7, None]), ({"7": 1}, 1, 0)),
        (pa.array([b"\xff", None]), ({}, 1, 1)),
        (pa.array([[1], [2]]), ({}, 0, 2)),
        (pa.array([None]), ({}, 1, 0)),
        (pa.array(["é" * 5000]), ({"é" * MAX_VALUE_CHARS: 1}, 0, 0)),
    ],
)
def test_category_cells_are_counted_by_type(cell, counted):
    summary = profile(pa.table({"c": cell}), (CATEGORY,)).categories["c"]
    assert (summary.counts, summary.nulls, summary.mistyped) == counted


def test_tensor_rows_are_summarized_by_mean_and_std():
    rows = pa.array([[1, 2, 3, 4], [1], None, [0, 0, 0, 0]], pa.list_(pa.float32()))
    summary = profile(pa.table({"t": rows}), (TENSOR,))
    mean, std = summary.numbers["t.mean"], summary.numbers["t.std"]
    assert (mean.count, mean.nulls, mean.mistyped) == (std.count, std.nulls, std.mistyped) == (2, 1, 1)
    assert mean.max == 2.5
    assert std.max == pytest.approx(math.sqrt(1.25))


def test_absent_and_timestamp_columns_are_skipped():
    when = Column(name="at", kind="timestamp")
    summary = profile(pa.table({"y": [1.0]}), (*COLUMNS, when))
    assert summary.rows == 1
    assert summary.columns == COLUMNS
    assert summary.numbers["x"].total == 0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 8))
def test_category_counts_of_many_values_are_within_the_bound(seed, pieces):
    rng = np.random.default_rng(seed)
    flood = [f"v{i}" for i in range(3 * MAX_CATEGORIES)]
    data = rng.permutation(flood + ["big"] * 500 + ["small"] * 40)
    total = CategorySummary()
    for part in np.array_split(data, pieces):
        total.merge(profile(pa.table({"c": part.tolist()}), (CATEGORY,)).categories["c"])
    assert len(total.counts) <= MAX_CATEGORIES
    assert total.count == data.size
    assert total.shortfall <= data.size // (MAX_CATEGORIES + 1)
    for value, true in (("big", 500), ("small", 40)):
        assert true - total.shortfall <= total.counts.get(value, 0) <= true


def test_merge_of_different_columns_is_refused():
    with raises(DataError, "data.profile_columns_differ"):
        Profile.empty(COLUMNS).merge(Profile.empty((NUMBER,)))


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_profile_from_garbage_is_refused(data):
    with pytest.raises(DataError):
        Profile.from_bytes(data)


@settings(deadline=None, max_examples=examples(300))
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_profile_from_damaged_bytes_is_refused_or_read(at, byte):
    data = bytearray(profile(frame([(float(i), "a") for i in range(50)])).to_bytes())
    data[int(at * len(data))] = byte
    try:
        again = Profile.from_bytes(bytes(data))
    except DataError:
        return
    again.merge(Profile.empty(again.columns))
    again.to_bytes()


def test_profile_with_mismatched_summaries_is_refused():
    data = Profile.empty((NUMBER,)).to_bytes().replace(b'"kind":"number"', b'"kind":"category"')
    with raises(DataError, "data.invalid_profile"):
        Profile.from_bytes(data)


def test_profile_of_the_previous_release_is_read_and_a_newer_one_refused():
    data = profile(frame([(1.0, "a")])).to_bytes()
    before = data.replace(b'"schema_version":2', b'"format":1')
    assert before != data
    assert Profile.from_bytes(before).to_bytes() == data
    with raises(DataError, "data.stored_too_new", kind="profile", version=3, newest=2):
        Profile.from_bytes(data.replace(b'"schema_version":2', b'"schema_version":3'))


def test_append_output_adds_the_likeliest_class_or_the_score():
    task = Task(kind="multiclass", label="y", classes=("low", "mid", "high"))
    scores = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    assert append_output(pa.table({"x": [1, 2]}), task, scores)["predicted"].to_pylist() == ["high", "low"]
    binary = append_output(pa.table({"x": [1, 2]}), Task(kind="binary", label="y"), np.array([0.25, 0.5], np.float32))
    assert binary["score"].to_pylist() == [0.25, 0.5]
