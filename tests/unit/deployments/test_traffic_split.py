"""The split is sticky, monotone for each challenger, uniform, and independent between salts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.traffic_split import assign_variant, choose_copy, find_slice, hash_position, slice_start
from tests.factories.deployments.serving_state import build_split

PLACE = 0.6624169971365433
keys = st.text(st.characters(codec="utf-8"))
shares = st.floats(0.0, 1.0)


def starts(challengers: int) -> tuple[float, ...]:
    return tuple(slice_start(index, challengers) for index in range(challengers))


@given(keys, keys)
def test_hash_position_is_in_the_unit_interval(salt: str, key: str) -> None:
    assert 0.0 <= hash_position(salt, key) < 1.0


def test_hash_position_is_stable_between_versions_of_the_code() -> None:
    assert hash_position("rollout", "user-1") == pytest.approx(PLACE, abs=1e-15)
    # A single challenger has the keys that it had before several were supported.
    assert [find_slice("rollout", "user-1", share) for share in (PLACE - 1e-9, PLACE + 1e-9)] == [None, 0]


@given(keys, st.integers(1, 7), shares, shares)
def test_find_slice_as_shares_grow_moves_no_key_away_from_its_challenger(
    key: str, challengers: int, a: float, b: float
) -> None:
    before, after = (find_slice("s", key, share / challengers, starts(challengers)) for share in sorted((a, b)))
    assert before in (None, after)


@given(keys, st.integers(2, 7), st.data())
def test_find_slice_after_others_are_dropped_keeps_the_keys_of_the_remaining(
    key: str, challengers: int, data: st.DataObject
) -> None:
    every_start = starts(challengers)
    left = data.draw(st.lists(st.integers(0, challengers - 1), min_size=1, unique=True))
    share = data.draw(shares) / challengers
    before = find_slice("s", key, share, every_start)
    now = find_slice("s", key, share, [every_start[index] for index in left])
    # The keys of the others move to the champion; no other key moves.
    assert (None if now is None else left[now]) == (before if before in left else None)
    alone = [every_start[left[0]]]
    if before == left[0]:
        assert find_slice("s", key, data.draw(st.floats(share, 1.0)), alone) == 0
    assert find_slice("s", key, 1.0, alone) == 0


@given(keys, st.integers(1, 7))
def test_find_slice_with_share_zero_is_none(key: str, challengers: int) -> None:
    assert find_slice("s", key, 0.0, starts(challengers)) is None


@given(st.integers(0, 2**53 - 1), st.integers(1, 9), st.data())
def test_slice_start_gives_exact_distances(place: int, challengers: int, data: st.DataObject) -> None:
    begin = slice_start(data.draw(st.integers(0, challengers - 1)), challengers)
    assert 0.0 <= (place / 2.0**53 - begin) % 1.0 < 1.0


@pytest.mark.parametrize("challengers", [1, 3])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_find_slice_over_many_keys_matches_the_share(share: float, challengers: int) -> None:
    each = share / challengers
    slices = [find_slice("rollout", f"user-{i}", each, starts(challengers)) for i in range(20_000)]
    for index in range(challengers):
        assert slices.count(index) / 20_000 == pytest.approx(each, abs=4 * np.sqrt(each * (1 - each) / 20_000))


def test_hash_position_of_another_salt_is_independent() -> None:
    a = np.array([hash_position("first", f"user-{i}") for i in range(5_000)])
    b = np.array([hash_position("second", f"user-{i}") for i in range(5_000)])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_assign_variant_follows_split_and_pin() -> None:
    split = build_split("2", "3", share=0.5)
    assert {assign_variant(split, f"user-{i}") for i in range(50)} == {"2", "3"}
    assert (assign_variant(split, "user", "3"), assign_variant(split, "user", "1")) == ("3", None)
    assert assign_variant(build_split("2", "3", share=0.0), "user") is None
    assert assign_variant(None, "user") is None


@given(keys, st.integers(1, 4), shares, shares)
def test_choose_copy_as_the_fraction_grows_keeps_every_copy(key: str, challengers: int, a: float, b: float) -> None:
    split = build_split(*map(str, range(2, 2 + challengers)))
    assert split is not None
    before, after, all_keys = (
        choose_copy(split.model_copy(update={"copies": copies}), key) for copies in (*sorted((a, b)), 1.0)
    )
    assert before in (None, after)
    assert after in (None, all_keys)
    assert all_keys is not None


@pytest.mark.parametrize("copies", [0.0, 0.3])
def test_choose_copy_takes_the_fraction_of_both_variants_keys(copies: float) -> None:
    split = build_split("2", share=0.5)
    assert split is not None
    split = split.model_copy(update={"copies": copies})
    copied: dict[str | None, list[bool]] = {None: [], "2": []}
    for i in range(4000):
        copied[assign_variant(split, f"user-{i}")].append(choose_copy(split, f"user-{i}") is not None)
    assert [np.mean(of_variant) for of_variant in copied.values()] == pytest.approx([copies] * 2, abs=0.04)
