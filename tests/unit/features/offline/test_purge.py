"""The rule of late labels and groups: no row trains, validates or tests that a run on that day could not have had."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError
from features.offline import purge, split_dates
from features.offline.purge import PART, Purged
from features.offline.split_dates import RowTimes, suggest_split, working_dates, working_holdout
from features.split import GROUP, PARTS, SPLIT, TEST, TRAIN, VALIDATION, HashSplit, TimeSplit, group_expr
from features.types import AS_OF, ID, INSTANT, LABEL_KNOWN_AT
from tests.factories.errors import raises

START, DAY = datetime(2024, 3, 1, tzinfo=UTC), timedelta(days=1)
SPLIT_DAYS = (0, 10, 14, 20)


def time_split(days: tuple[int, ...] = SPLIT_DAYS, group: tuple[str, ...] = ()) -> TimeSplit:
    start, validate_from, test_from, end = (START + day * DAY for day in days)
    return TimeSplit(start=start, validate_from=validate_from, test_from=test_from, end=end, group=group)


def examples(rows: list[tuple[int, int, str | None]]) -> pl.DataFrame:
    """Examples of (day, days until the label was known, customer)."""
    days, delays, customers = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {
        ID: [str(i) for i in range(len(rows))],
        AS_OF: pl.Series([START + day * DAY for day in days], dtype=INSTANT),
        LABEL_KNOWN_AT: pl.Series(
            [START + (day + delay) * DAY for day, delay in zip(days, delays, strict=True)], dtype=INSTANT
        ),
        "customer": pl.Series(customers, dtype=pl.String),
    }
    return pl.DataFrame(columns).with_columns(group_expr(["customer"]))


def purged_frame(rows: pl.DataFrame, split: TimeSplit, blocks: int = 3) -> tuple[pl.DataFrame, Purged]:
    """What purge_blocks does on a cluster, in this process."""
    rows = rows if split.group else rows.drop(GROUP)
    parts = [purge.assign_parts(rows[i::blocks], split) for i in range(blocks)]
    counts = [purge.count_block(part) for part in parts]
    straddling = purge.straddling_groups(counts)
    left = pl.concat([purge.keep_rows(part, straddling) for part in parts])
    sums = [purge.add_counts(each) for each in ([c.dated for c in counts], [c.known for c in counts])]
    return left, Purged.between(*sums, purge.count_parts(left))


rows_of_examples = st.lists(
    st.tuples(st.integers(-2, 22), st.integers(0, 12), st.sampled_from(["anna", "ben", "cleo", None])), max_size=40
)
days_of_split = st.lists(st.integers(0, 22), min_size=4, max_size=4, unique=True).map(lambda days: tuple(sorted(days)))


@pytest.mark.parametrize(("part", "day", "limit"), [(TRAIN, 2, 10), (VALIDATION, 11, 14), (TEST, 15, 20)])
def test_row_is_in_its_part_only_if_its_label_was_known_by_the_end_of_the_part(part: str, day: int, limit: int) -> None:
    rows = examples([(day, limit - day, None), (day, limit - day + 1, None)])
    assert rows.select(time_split().split_expr().alias(SPLIT))[SPLIT].to_list() == [part, None]
    assert rows.select(time_split().part_expr().alias(PART))[PART].to_list() == [part, part]


@given(rows_of_examples, days_of_split)
def test_time_split_purges_exactly_the_late_labels(rows: list, days: tuple[int, ...]) -> None:
    left, purged = purged_frame(examples(rows), time_split(days))
    bounds = dict(zip(PARTS, pairwise(days), strict=True))
    expected, late = Counter(), Counter()
    for day, delay, _ in rows:
        for part, (start, end) in bounds.items():
            if start <= day < end:
                (expected if day + delay <= end else late)[part] += 1
    assert purge.count_parts(left) == dict(expected)
    assert Counter({part: n for part, n in purged.late.items() if n}) == late
    assert not any(purged.straddling.values())


@given(rows_of_examples, days_of_split, st.integers(1, 4))
def test_time_split_by_groups_lets_no_group_straddle_and_keeps_the_first_part(
    rows: list, days: tuple[int, ...], blocks: int
) -> None:
    split = time_split(days, group=("customer",))
    alone, _ = purged_frame(examples(rows), time_split(days))
    left, purged = purged_frame(examples(rows), split, blocks)
    known = left.drop_nulls("customer")
    assert (known.group_by("customer").agg(pl.col(SPLIT).n_unique() == 1)[SPLIT]).all()
    first = {name: min(map(PARTS.index, group[SPLIT])) for (name,), group in alone.group_by("customer")}
    kept = [
        row for row in alone.iter_rows(named=True)
        if row["customer"] is None or PARTS.index(row[SPLIT]) == first[row["customer"]]
    ]  # fmt: skip
    assert sorted(left[ID]) == sorted(row[ID] for row in kept)
    assert sum(purged.straddling.values()) == len(alone) - len(kept)


def test_hash_split_by_groups_keeps_groups_whole_and_draws_other_rows_by_id() -> None:
    rows = examples([(0, 0, f"c{i % 300}") for i in range(3_000)] + [(0, 0, None)] * 1_000)
    split = HashSplit(validation=0.3, test=0.2, group=("customer",))
    parts = rows.with_columns(split.split_expr().alias(SPLIT))
    assert parts.drop_nulls("customer").group_by("customer").agg(pl.col(SPLIT).n_unique())[SPLIT].max() == 1
    assert parts[:3_000].group_by(SPLIT).len().height == 3
    alone = parts[3_000:]
    assert alone[SPLIT].to_list() == alone.select(HashSplit(validation=0.3, test=0.2).split_expr())[:, 0].to_list()


def test_group_of_two_columns_is_that_of_both_values() -> None:
    rows = pl.DataFrame({"a": ["x", "x", "y", "x"], "b": [1, 2, 1, None]})
    groups = rows.select(group_expr(["a", "b"]))[GROUP]
    assert groups.n_unique() == 4
    assert groups.is_null().to_list() == [False, False, False, True]
    assert groups.dtype == pl.UInt64


def test_purged_of_an_earlier_frame_is_nothing_and_a_stored_one_is_read_back() -> None:
    assert not Purged()
    assert str(Purged()) == ""
    purged = Purged.between({TRAIN: 1_500, TEST: 9}, {TRAIN: 1_400, TEST: 9}, {TRAIN: 1_400, TEST: 2})
    assert Purged.from_stored(purged.model_dump_json()) == purged
    assert [purged.total(part) for part in PARTS] == [100, 0, 7]
    assert str(purged) == "100 train rows (label known too late); 7 test rows (group in an earlier part)"


def times(rows: list[tuple[float, float]]) -> RowTimes:
    start = int(START.timestamp()) * 10**6
    as_of, delay = (np.array([each * 86_400e6 for each in column], np.int64) for column in zip(*rows, strict=True))
    return RowTimes(start + as_of, start + as_of + delay)


def daily(delay: float, days: int = 400, per_day: int = 10) -> RowTimes:
    return times([(day + i / per_day, delay) for day in range(days) for i in range(per_day)])


def test_working_dates_keep_a_date_that_works_and_move_the_other() -> None:
    # Validation lasts 14 days and a label 30: validation must begin 44 days before the test to have as many rows.
    split = time_split((0, 306, 320, 400))
    dates = working_dates(split, daily(30))
    assert dates is not None
    assert dates.test_from == split.test_from
    assert dates.validate_from == START + 276 * DAY
    moved = split.model_copy(update={"validate_from": dates.validate_from})
    assert dates.rows == {TRAIN: 2_461, VALIDATION: 141, TEST: 501}
    assert working_dates(moved, daily(30)).validate_from == dates.validate_from


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=40), days_of_split)
def test_working_dates_leave_rows_in_every_part_or_none_can(rows: list, days: tuple[int, ...]) -> None:
    split, given_times = time_split(days), times(rows)
    dates = working_dates(split, given_times)
    start, *_, end = days
    any_works = any(
        all(
            any(a <= day < b and day + delay <= b for day, delay in rows)
            for a, b in ((start, validate_from), (validate_from, test_from), (test_from, end))
        )
        for validate_from in range(start + 1, end)
        for test_from in range(validate_from + 1, end)
    )
    if dates is None:
        assert not any_works
        return
    moved = split.model_copy(update={"validate_from": dates.validate_from, "test_from": dates.test_from})
    frame, _ = purged_frame(examples([(day, delay, None) for day, delay in rows]), moved)
    assert purge.count_parts(frame) == dates.rows
    assert min(dates.rows.values()) > 0


def test_working_holdout_is_the_shortest_that_leaves_rows() -> None:
    split = time_split((0, 372, 386, 400))
    holdout = working_holdout(split, daily(90))
    # A hundredth of 4,000 rows are those of four days.
    assert holdout == 94 * DAY
    moved = split.for_retrain(split.end, holdout)
    frame, _ = purged_frame(examples([(day, 90, None) for day in range(400)]), moved)
    assert min(purge.count_parts(frame)[part] for part in PARTS) >= 4


def test_split_that_purges_all_validation_rows_is_refused_with_dates_that_work() -> None:
    split, all_times = time_split((0, 306, 320, 400)), daily(30)
    with raises(
        DataError,
        "data.split_purged",
        part=VALIDATION,
        until="2025-01-15",
        delay="30",
        validate_from="2024-12-02T00:00:00+00:00",
        test_from="2025-01-15T00:00:00+00:00",
        holdout_days=34,
    ) as caught:
        split_dates.require_rows(split, refused_counts(split, all_times), lambda: all_times)
    assert "Retrain(holdout=timedelta(days=34))" in str(caught.value)


def test_split_without_dates_that_work_is_refused_without_dates() -> None:
    split, all_times = time_split(), daily(15, days=20)
    with raises(DataError, "data.split_purged", part=TRAIN, validate_from="", test_from="", holdout_days=None):
        split_dates.require_rows(split, refused_counts(split, all_times), lambda: all_times)


def test_split_whose_test_customers_all_trained_is_refused_as_such() -> None:
    counts = (
        {TRAIN: 9, VALIDATION: 5, TEST: 8},
        {TRAIN: 9, VALIDATION: 5, TEST: 7},
        {TRAIN: 9, VALIDATION: 5, TEST: 0},
    )
    with raises(DataError, "data.split_groups_purged", part=TEST, rows=7, group="customer"):
        split_dates.require_rows(time_split(group=("customer",)), counts, lambda: pytest.fail("dates do not help"))


def test_split_that_leaves_rows_is_not_refused() -> None:
    some = dict.fromkeys(PARTS, 1)
    split_dates.require_rows(time_split(), (some, some, some), lambda: pytest.fail("no dates are needed"))


def refused_counts(split: TimeSplit, all_times: RowTimes) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Rows by part, by date and of known labels."""
    bounds = {part: [int(at.timestamp() * 1e6) for at in of_part] for part, of_part in split.bounds.items()}
    dated = {part: int(((all_times.as_of >= a) & (all_times.as_of < b)).sum()) for part, (a, b) in bounds.items()}
    known = {part: len(all_times.usable(a, b)) for part, (a, b) in bounds.items()}
    return dated, known, known


@pytest.mark.parametrize(
    ("spacing", "delay", "unit"),
    [
        (timedelta(hours=1), timedelta(0), DAY),
        (timedelta(hours=1), timedelta(days=9), DAY),
        (timedelta(minutes=1), timedelta(minutes=5), timedelta(hours=1)),
        (timedelta(seconds=1), timedelta(0), timedelta(minutes=1)),
    ],
)
def test_suggested_split_leaves_rows_in_every_part_at_round_dates(
    spacing: timedelta, delay: timedelta, unit: timedelta
) -> None:
    at = np.array([round((START + 7 * spacing + i * spacing).timestamp() * 1e6) for i in range(1000)])
    times = RowTimes(at, at + delay // timedelta(microseconds=1))
    split = suggest_split(times)
    assert split is not None
    dates = (split.start, split.validate_from, split.test_from, split.end)
    assert all((date - START) % unit == timedelta(0) for date in dates)
    assert min(times.count_between([round(date.timestamp() * 1e6) for date in dates])) >= 10
    assert times.period == (START + 7 * spacing, START + 1006 * spacing)


def test_rows_of_one_moment_have_no_suggested_split() -> None:
    at = np.full(50, round(START.timestamp() * 1e6))
    assert suggest_split(RowTimes(at, at)) is None
