"""Rows wait for their labels in bounded memory; which rows expire depends on arrival alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.analysis.paired_predictions import PairedPrediction, PairedPredictions


def pair(at_s: float = 0.0, champion: float = 0.5) -> PairedPrediction:
    return PairedPrediction(0.5, 1, champion, 0.9, round(at_s * 1e6))


def labeled_count(pairs: PairedPredictions) -> int:
    return sum(1 for _ in pairs.labeled_pairs())


def test_pairs_beyond_the_limit_expire_oldest_first() -> None:
    pairs = PairedPredictions(most=3)
    for id in "abcde":
        pairs.add(id, pair())
    for id in "abc":
        pairs.add_label(id, (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (1, 2)


def test_pairs_beyond_the_wait_expire() -> None:
    pairs = PairedPredictions(wait_s=60.0)
    pairs.add("a", pair(0.0))
    pairs.add("b", pair(60.0))
    assert pairs.expired_rows == 0
    pairs.add("c", pair(61.0))
    pairs.add_label("a", (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (0, 1)


def test_labeled_pairs_stay_and_count_toward_the_limit() -> None:
    pairs = PairedPredictions(most=2, wait_s=60.0)
    for id in "ab":
        pairs.add(id, pair(0.0), (0, 1.0))
    pairs.add("c", pair(1e6), (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (2, 1)


def test_pair_added_twice_counts_once() -> None:
    pairs = PairedPredictions()
    pairs.add("a", pair(), (0, 1.0))
    pairs.add("a", pair(champion=0.6), (0, 1.0))
    assert [p.champion for p, _ in pairs.labeled_pairs()] == [0.5]


@pytest.mark.parametrize("most", [1, 5, 100])
@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=200))
def test_pairs_are_labeled_waiting_or_expired_within_the_limit(most: int, events: list) -> None:
    pairs, added = PairedPredictions(most=most), set()
    for number, is_label in events:
        if is_label:
            pairs.add_label(str(number), (0, 1.0))
        elif number not in added:
            added.add(number)
            pairs.add(str(number), pair())
        assert len(added) - pairs.expired_rows <= most
    for number in added:
        pairs.add_label(str(number), (0, 1.0))
    assert labeled_count(pairs) + pairs.expired_rows == len(added)
