"""Rows wait for their labels in bounded memory; which rows stay depends on ids and arrival alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.analysis.paired_predictions import LabelWaits, PairedPrediction, PairedPredictions


def pair(at_s: float = 0.0, champion: float = 0.5) -> PairedPrediction:
    return PairedPrediction(0.5, 1, champion, 0.9, round(at_s * 1e6))


def labeled_count(pairs: PairedPredictions) -> int:
    return sum(1 for _ in pairs.labeled_pairs())


def test_pairs_beyond_the_limit_expire_oldest_first_where_the_delay_is_unknown() -> None:
    pairs = PairedPredictions(most=3)
    for id in "abcde":
        pairs.add(id, pair())
    for id in "abc":
        pairs.add_label(id, (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (1, 2)


def test_pairs_beyond_the_limit_leave_a_sample_of_all_rows() -> None:
    pairs = PairedPredictions(LabelWaits(delay_s=60.0), most=100)
    for i in range(1000):
        pairs.add(str(i), pair())
    for i in range(1000):
        pairs.add_label(str(i), (i, float(i)))
    rows = [label for _, label in pairs.labeled_pairs()]
    assert 25 < len(rows) == 1000 - pairs.expired_rows <= 100
    # The oldest rows are as likely to wait as the newest, or labels that take longer than places last never find one.
    assert sum(row < 500 for row in rows) == pytest.approx(len(rows) / 2, abs=15)


def test_pairs_beyond_the_limit_do_not_depend_on_labels() -> None:
    chosen = []
    for value in (0.0, 1.0):
        pairs = PairedPredictions(LabelWaits(delay_s=60.0), most=50)
        for i in range(300):
            pairs.add(str(i), pair(), (0, value) if i % 10 == 0 else None)
        for i in range(300):
            pairs.add_label(str(i), (0, value))
        chosen.append((labeled_count(pairs), pairs.expired_rows))
    assert chosen[0] == chosen[1]


def test_pairs_beyond_the_wait_expire() -> None:
    pairs = PairedPredictions(LabelWaits(wait_s=60.0))
    pairs.add("a", pair(0.0))
    pairs.add("b", pair(60.0))
    assert pairs.expired_rows == 0
    pairs.add("c", pair(61.0))
    pairs.add_label("a", (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (0, 1)


def test_labeled_pairs_stay_and_count_toward_the_limit() -> None:
    pairs = PairedPredictions(LabelWaits(wait_s=60.0), most=2)
    for id in "ab":
        pairs.add(id, pair(0.0), (0, 1.0))
    pairs.add("c", pair(1e6), (0, 1.0))
    assert (labeled_count(pairs), pairs.expired_rows) == (2, 1)


def test_pairs_are_thinned_while_no_label_is_overdue() -> None:
    pairs = PairedPredictions(LabelWaits(wait_s=2000.0, delay_s=1000.0), most=500)
    for at in range(1000):
        pairs.add(str(at), pair(at))
    for at in range(1000):
        pairs.add_label(str(at), (0, 1.0))
    waited = [p.at_us // 1_000_000 for p, _ in pairs.labeled_pairs()]
    # Half of all rows or a quarter, old and new alike.
    quarters = [sum(start <= at < start + 250 for at in waited) for start in (0, 250, 500, 750)]
    assert len(waited) == 1000 - pairs.expired_rows <= 500
    assert min(quarters) >= 0.8 * len(waited) / 4


def test_pairs_whose_labels_are_overdue_expire_before_any_are_thinned() -> None:
    pairs = PairedPredictions(LabelWaits(wait_s=200.0, delay_s=10.0), most=50)
    for at in range(100):
        pairs.add(str(at), pair(at))
    assert pairs.expired_rows == 50
    for at in range(100):
        pairs.add_label(str(at), (0, 1.0))
    assert labeled_count(pairs) == 50


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
