"""The split is sticky, monotone for each challenger, uniform, and dealt anew by another salt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference.traffic_split import find_slice, hash_position, slice_start

PLACE = 0.6624169971365433
keys = st.text(st.characters(codec="utf-8"))
shares = st.floats(0.0, 1.0)


def starts(challengers: int) -> tuple[float, ...]:
    return tuple(slice_start(index, challengers) for index in range(challengers))


@given(keys, keys)
def test_a_key_has_a_place_in_the_unit_interval(salt: str, key: str) -> None:
    assert 0.0 <= hash_position(salt, key) < 1.0


def test_places_do_not_change_between_versions_of_the_code() -> None:
    assert hash_position("rollout", "user-1") == pytest.approx(PLACE, abs=1e-15)
    # One challenger has the same keys that it had before there could be several.
    assert [find_slice("rollout", "user-1", share) for share in (PLACE - 1e-9, PLACE + 1e-9)] == [None, 0]


@given(keys, st.integers(1, 7), shares, shares)
def test_nobody_moves_to_the_champion_or_to_another_challenger_as_shares_grow(
    key: str, challengers: int, a: float, b: float
) -> None:
    before, after = (find_slice("s", key, share / challengers, starts(challengers)) for share in sorted((a, b)))
    assert before in (None, after)


@given(keys, st.integers(2, 7), st.data())
def test_when_others_are_dropped_who_is_left_keeps_its_keys_and_may_take_all(
    key: str, challengers: int, data: st.DataObject
) -> None:
    all_of_them = starts(challengers)
    left = data.draw(st.lists(st.integers(0, challengers - 1), min_size=1, unique=True))
    share = data.draw(shares) / challengers
    before = find_slice("s", key, share, all_of_them)
    found = find_slice("s", key, share, [all_of_them[index] for index in left])
    # The others' keys are the champion's; nobody else moves.
    assert (None if found is None else left[found]) == (before if before in left else None)
    alone = [all_of_them[left[0]]]
    if before == left[0]:
        assert find_slice("s", key, data.draw(st.floats(share, 1.0)), alone) == 0
    assert find_slice("s", key, 1.0, alone) == 0


@given(keys, st.integers(1, 7))
def test_nobody_at_zero(key: str, challengers: int) -> None:
    assert find_slice("s", key, 0.0, starts(challengers)) is None


@given(st.integers(0, 2**53 - 1), st.integers(1, 9), st.data())
def test_distances_on_the_circle_are_exact(place: int, challengers: int, data: st.DataObject) -> None:
    begin = slice_start(data.draw(st.integers(0, challengers - 1)), challengers)
    assert 0.0 <= (place / 2.0**53 - begin) % 1.0 < 1.0


@pytest.mark.parametrize("challengers", [1, 3])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_of_keys_is_the_share_asked_for(share: float, challengers: int) -> None:
    each = share / challengers
    dealt = [find_slice("rollout", f"user-{i}", each, starts(challengers)) for i in range(20_000)]
    for index in range(challengers):
        assert dealt.count(index) / 20_000 == pytest.approx(each, abs=4 * np.sqrt(each * (1 - each) / 20_000))


def test_another_salt_deals_independently() -> None:
    a = np.array([hash_position("first", f"user-{i}") for i in range(5_000)])
    b = np.array([hash_position("second", f"user-{i}") for i in range(5_000)])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
