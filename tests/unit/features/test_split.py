"""Splits by time and by hash: where each part begins and ends, and that parts are disjoint and complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cluster.errors import ProjectError
from features.split import TEST, TRAIN, VALIDATION, HashSplit, Split, TimeSplit
from features.types import AS_OF, ID, INSTANT, LABEL_KNOWN_AT
from tests.factories.errors import raises

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
SPLIT = TimeSplit(start=START, validate_from=START + 6 * DAY, test_from=START + 8 * DAY, end=START + 10 * DAY)

offsets = st.integers(0, 20 * DAY // MICROSECOND)


def parts(split: Split, column: str, values: list, dtype: pl.DataType | None = None) -> list[str | None]:
    frame = pl.DataFrame({column: pl.Series(values, dtype=dtype)})
    if column == AS_OF:  # Labels that are known at once: test_purge.py has late ones.
        frame = frame.with_columns(pl.col(AS_OF).alias(LABEL_KNOWN_AT))
    return frame.select(split.split_expr().alias("part")).get_column("part").to_list()


def time_parts(split: Split, times: list[datetime]) -> list[str | None]:
    return parts(split, AS_OF, times, INSTANT)


def hash_parts(ids: list[str], split: Split | None = None) -> list[str | None]:
    return parts(split or HashSplit(), ID, ids)


@pytest.mark.parametrize(
    ("boundary", "before", "after"),
    [
        (SPLIT.start, None, TRAIN),
        (SPLIT.validate_from, TRAIN, VALIDATION),
        (SPLIT.test_from, VALIDATION, TEST),
        (SPLIT.end, TEST, None),
    ],
)
def test_time_split_assigns_a_boundary_to_the_later_part(
    boundary: datetime, before: str | None, after: str | None
) -> None:
    assert time_parts(SPLIT, [boundary - MICROSECOND, boundary, boundary + MICROSECOND]) == [before, after, after]


def test_time_split_of_a_missing_time_is_in_no_part() -> None:
    assert parts(SPLIT, AS_OF, [None], INSTANT) == [None]


def test_time_split_with_bounds_of_another_zone_compares_instants() -> None:
    zone = ZoneInfo("Asia/Kathmandu")
    zoned = TimeSplit(**{name: bound.astimezone(zone) for name, bound in SPLIT.model_dump(exclude={"group"}).items()})
    assert time_parts(zoned, [SPLIT.validate_from - MICROSECOND, SPLIT.validate_from]) == [TRAIN, VALIDATION]


@given(st.lists(offsets, min_size=4, max_size=4, unique=True), st.lists(offsets, max_size=30))
def test_time_parts_are_disjoint_and_complete(bounds: list[int], rows: list[int]) -> None:
    start, validate_from, test_from, end = (START + bound * MICROSECOND for bound in sorted(bounds))
    split = TimeSplit(start=start, validate_from=validate_from, test_from=test_from, end=end)
    times = [START + row * MICROSECOND for row in rows]
    intervals = {TRAIN: (start, validate_from), VALIDATION: (validate_from, test_from), TEST: (test_from, end)}
    for time, part in zip(times, time_parts(split, times), strict=True):
        assert [part] == ([name for name, (low, high) in intervals.items() if low <= time < high] or [None])


@pytest.mark.parametrize("name", ["validate_from", "test_from", "end"])
def test_time_split_with_an_empty_part_is_refused(name: str) -> None:
    bounds = SPLIT.model_dump(exclude={"group"})
    previous = list(bounds)[list(bounds).index(name) - 1]
    with raises(ProjectError, "project.split_order"):
        TimeSplit(**{**bounds, name: bounds[previous]})


def test_time_split_of_a_retrain_moves_all_but_the_start() -> None:
    now, holdout = START + 30 * DAY, 3 * DAY
    moved = SPLIT.for_retrain(now, holdout)
    assert moved == TimeSplit(start=SPLIT.start, validate_from=now - 2 * holdout, test_from=now - holdout, end=now)
    bounds = [now - 2 * holdout, now - holdout, now]
    assert time_parts(moved, [bound - MICROSECOND for bound in bounds]) == [TRAIN, VALIDATION, TEST]
    assert time_parts(moved, bounds) == [VALIDATION, TEST, None]
    assert time_parts(moved, [SPLIT.start - MICROSECOND, SPLIT.start]) == [None, TRAIN]


@given(st.lists(st.text(max_size=8), max_size=30))
def test_hash_part_of_an_id_depends_on_nothing_else(ids: list[str]) -> None:
    together = hash_parts(ids)
    assert together == [hash_parts([id])[0] for id in ids]
    assert hash_parts(ids[::-1]) == together[::-1]
    assert set(together) <= {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize(("validation", "test"), [(0.2, 0.2), (0.05, 0.3), (0.0, 0.5)])
def test_hash_parts_have_their_shares(validation: float, test: float) -> None:
    count = 20_000
    parts_of_rows = hash_parts([f"row-{i}" for i in range(count)], HashSplit(validation=validation, test=test))
    shares = {TRAIN: 1 - validation - test, VALIDATION: validation, TEST: test}
    assert sum(parts_of_rows.count(part) for part in shares) == count
    for part, share in shares.items():
        assert stats.binomtest(parts_of_rows.count(part), count, share).pvalue > 1e-4


@pytest.mark.parametrize(
    ("split", "part"),
    [
        (HashSplit(validation=0.0, test=0.0), TRAIN),
        (HashSplit(validation=1.0, test=0.0), VALIDATION),
        (HashSplit(validation=0.0, test=1.0), TEST),
    ],
)
def test_hash_split_with_one_part_contains_all_ids(split: HashSplit, part: str) -> None:
    assert set(hash_parts([str(i) for i in range(10_000)], split)) == {part}


def test_larger_test_share_keeps_the_ids_of_the_smaller_one() -> None:
    ids = [str(i) for i in range(5_000)]
    small, large = (hash_parts(ids, HashSplit(validation=0.2, test=share)) for share in (0.1, 0.3))
    assert all(after == TEST for before, after in zip(small, large, strict=True) if before == TEST)
    assert large.count(TEST) > small.count(TEST)


def test_hash_split_of_a_retrain_is_the_same() -> None:
    split = HashSplit(validation=0.1, test=0.3)
    assert split.for_retrain(START, DAY) == split


def test_hash_split_of_rows_that_span_more_than_a_day_warns_and_a_time_split_does_not() -> None:
    assert HashSplit().warning(START, START + DAY) == ""
    assert "2024-03-01 to 2024-03-03" in HashSplit().warning(START, START + 2 * DAY)
    assert SPLIT.warning(START, START + 2 * DAY) == ""
