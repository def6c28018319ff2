"""Rows wait for their labels in bounded memory; who is given up is settled by arrival alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.analysis.paired_predictions import PairedPrediction, PairedPredictions


def pair(at_s: float = 0.0, champion: float = 0.5) -> PairedPrediction:
    return PairedPrediction(0.5, 1, champion, 0.9, round(at_s * 1e6))


def counted(pairs: PairedPredictions) -> int:
    return sum(1 for _ in pairs.labeled_pairs())


def test_beyond_the_number_who_waited_longest_is_given_up() -> None:
    pairs = PairedPredictions(most=3)
    for id in "abcde":
        pairs.add(id, pair())
    for id in "abc":
        pairs.add_label(id, (0, 1.0))
    assert (counted(pairs), pairs.expired_rows) == (1, 2)


def test_beyond_the_time_a_row_is_given_up() -> None:
    pairs = PairedPredictions(wait_s=60.0)
    pairs.add("a", pair(0.0))
    pairs.add("b", pair(60.0))
    assert pairs.expired_rows == 0
    pairs.add("c", pair(61.0))
    pairs.add_label("a", (0, 1.0))
    assert (counted(pairs), pairs.expired_rows) == (0, 1)


def test_labelled_rows_stay_and_fill_the_places_in_the_end() -> None:
    pairs = PairedPredictions(most=2, wait_s=60.0)
    for id in "ab":
        pairs.add(id, pair(0.0), (0, 1.0))
    pairs.add("c", pair(1e6), (0, 1.0))
    assert (counted(pairs), pairs.expired_rows) == (2, 1)


def test_a_row_that_comes_twice_counts_once() -> None:
    pairs = PairedPredictions()
    pairs.add("a", pair(), (0, 1.0))
    pairs.add("a", pair(champion=0.6), (0, 1.0))
    assert [p.champion for p, _ in pairs.labeled_pairs()] == [0.5]


@pytest.mark.parametrize("most", [1, 5, 100])
@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=200))
def test_every_row_is_labelled_waiting_or_given_up_and_memory_is_bounded(most: int, events: list) -> None:
    pairs, added = PairedPredictions(most=most), set()
    for number, is_label in events:
        if is_label:
            pairs.add_label(str(number), (0, 1.0))
        elif number not in added:
            added.add(number)
            pairs.add(str(number), pair())
        assert counted(pairs) + len(pairs._waiting) <= most
        assert counted(pairs) + len(pairs._waiting) + pairs.expired_rows == len(added)
