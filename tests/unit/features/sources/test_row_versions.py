"""Corrections at ingestion: which rows are known, which are versions, from when, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sources.row_versions import PENDING, KnownRows, decode_seen, encode_seen, separate_known
from features.sources.validation import validate_rows
from features.types import KNOWN_FROM
from tests.factories.features.landing import Landed, empty_table, land
from tests.factories.features.shops import LATER, NOON
from tests.factories.features.shops import visits_source as source

TODAY = datetime(2024, 2, 1, tzinfo=UTC)
TOMORROW = TODAY + timedelta(days=1)
EARLY = "known is before that of the row with the same id"
REPEATS = "repeats the key id"


def rows(*cells: tuple) -> pl.DataFrame:
    return pl.DataFrame(
        [(name, "x", spent, NOON, known) for name, spent, known in cells],
        schema=["id", "shop", "spent", "at", "known"],
        orient="row",
        strict=False,
    )


def landed(*batches: pl.DataFrame) -> Landed:
    """Land batches, a day apart from TODAY on."""
    result = Landed(empty_table(source()), pl.DataFrame(), [])
    for day, batch in enumerate(batches):
        result = land(source(), result.table, batch, TODAY + timedelta(days=day))
    return result


def versions(result: Landed) -> list[tuple]:
    return result.table.select("id", "spent", KNOWN_FROM).rows()


def test_equal_values_are_known_even_with_a_later_known_at() -> None:
    again = landed(rows(("a", 1.0, NOON), ("b", -0.0, NOON)), rows(("a", 1.0, LATER), ("b", 0.0, NOON)))
    assert versions(again) == [("a", 1.0, None), ("b", 0.0, None)]
    assert again.reasons == []


def test_other_values_with_a_later_known_at_are_known_from_then() -> None:
    assert versions(landed(rows(("a", 1.0, NOON)), rows(("a", 2.0, LATER)))) == [("a", 1.0, None), ("a", 2.0, LATER)]


def test_other_values_known_before_the_last_ingestion_are_known_from_this_one() -> None:
    first = landed(rows(("a", 1.0, NOON)))
    # The row was stamped again without a change, and changed later without a stamp.
    late = land(source(), first.table, rows(("a", 2.0, LATER), ("b", 1.0, LATER)), TOMORROW, TODAY)
    assert versions(late) == [("a", 1.0, None), ("b", 1.0, None), ("a", 2.0, TOMORROW)]
    log = rows(("a", 2.0, LATER), ("a", 3.0, LATER + timedelta(hours=1)), ("a", 4.0, TODAY + timedelta(hours=1)))
    chain = land(source(), first.table, log, TOMORROW, TODAY)
    micro = timedelta(microseconds=1)
    assert versions(chain)[1:] == [("a", 2.0, TOMORROW), ("a", 3.0, TOMORROW + micro), ("a", 4.0, TOMORROW + 2 * micro)]
    assert land(source(), chain.table, log, TOMORROW + timedelta(days=1), TOMORROW).new.height == 0


def test_late_label_with_the_same_known_at_is_known_from_its_ingestion() -> None:
    late = landed(rows(("a", None, NOON)), rows(("a", 2.0, NOON)))
    assert versions(late) == [("a", None, None), ("a", 2.0, TOMORROW)]


def test_correction_back_to_earlier_values_is_a_version() -> None:
    back = landed(*(rows(("a", spent, NOON)) for spent in (1.0, 2.0, 1.0)))
    assert versions(back) == [("a", 1.0, None), ("a", 2.0, TOMORROW), ("a", 1.0, TOMORROW + timedelta(days=1))]


def test_versions_of_a_change_log_land_once() -> None:
    log = rows(("a", 1.0, NOON), ("a", 2.0, LATER), ("a", 1.0, TODAY))
    expected = [("a", 1.0, None), ("a", 2.0, LATER), ("a", 1.0, TODAY)]
    assert versions(landed(log)) == expected
    again = landed(log, log, log.reverse())
    assert (versions(again), again.reasons) == (expected, [])
    assert versions(landed(*(log.slice(i, 1) for i in range(3)), log)) == expected


def test_repeats_are_refused_and_stay_refused() -> None:
    conflict = rows(("a", 1.0, NOON), ("a", 2.0, NOON), ("b", 1.0, NOON), ("b", 1.0, LATER))
    first = landed(conflict)
    assert (versions(first), first.reasons) == ([("a", 1.0, None), ("b", 1.0, None)], [REPEATS, REPEATS])
    again = landed(conflict, conflict.reverse(), conflict)
    assert (versions(again), again.reasons) == (versions(first), [REPEATS])


def test_row_beside_the_one_that_it_would_correct_is_refused() -> None:
    beside = landed(rows(("a", 1.0, NOON)), rows(("a", 1.0, NOON), ("a", 2.0, NOON)))
    assert (versions(beside), beside.reasons) == ([("a", 1.0, None)], [REPEATS])


def test_row_known_before_the_one_that_it_would_correct_is_refused() -> None:
    early = landed(rows(("a", 1.0, LATER)), rows(("a", 2.0, NOON)))
    assert (versions(early), early.reasons) == ([("a", 1.0, None)], [EARLY])


def test_correction_is_known_after_the_version_that_it_corrects() -> None:
    future = TODAY + timedelta(days=30)
    late = landed(rows(("a", 1.0, NOON)), rows(("a", 2.0, future)), rows(("a", 3.0, future)))
    assert versions(late)[1:] == [("a", 2.0, future), ("a", 3.0, future + timedelta(microseconds=1))]


def test_value_of_a_column_that_the_table_lacked_is_a_version() -> None:
    known = KnownRows.build(source(), [landed(rows(("a", 1.0, NOON), ("b", None, NOON))).table.drop("spent")])
    valid = validate_rows(source(), rows(("a", 1.0, NOON), ("b", None, NOON)))
    assert separate_known(source(), valid, known)[0].select("id", PENDING).rows() == [("a", True)]


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1.0, 2.0]), st.integers(0, 4)), max_size=6),
        max_size=5,
    )
)
def test_batch_that_lands_again_adds_nothing_and_known_from_ascends(batches: list[list[tuple]]) -> None:
    frames = [
        rows(*((name, spent, NOON + timedelta(hours=h)) for name, spent, h in cells)) for cells in batches if cells
    ]
    table = empty_table(source())
    for day, frame in enumerate(frames):
        table = land(source(), table, frame, TODAY + timedelta(days=day)).table
        again = land(
            source(), table, frame.sample(fraction=1, shuffle=True, seed=day), TODAY + timedelta(days=40 + day)
        )
        assert again.table.height == table.height
    for _, of_key in table.group_by("id", maintain_order=True):
        known = of_key.get_column(KNOWN_FROM).to_list()
        assert known[0] is None
        assert all(a is None or a < b for a, b in pairwise(known))
        assert (of_key.get_column("spent").ne_missing(of_key.get_column("spent").shift())[1:]).all()


@pytest.mark.parametrize("numbers", [[], [0, 7, 2**31]])
def test_seen_numbers_survive_their_encoding(numbers: list[int]) -> None:
    array = pl.Series(numbers, dtype=pl.UInt32).to_numpy()
    assert decode_seen([encode_seen(array), encode_seen(array)]).tolist() == [*numbers, *numbers]
