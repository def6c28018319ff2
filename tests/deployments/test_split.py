"""The split is sticky, monotone, uniform, and dealt anew by another salt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.contracts import CHALLENGER, CHAMPION
from deployments.split import assign, position

PLACE = 0.6624169971365433
shares = st.floats(0.0, 1.0)


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_key_has_a_place_in_the_unit_interval(salt: str, key: str) -> None:
    assert 0.0 <= position(salt, key) < 1.0


def test_places_do_not_change_between_versions_of_the_code() -> None:
    assert position("rollout", "user-1") == pytest.approx(PLACE, abs=1e-15)


@given(st.text(st.characters(codec="utf-8")), shares, shares)
def test_nobody_moves_back_as_the_share_grows(key: str, a: float, b: float) -> None:
    if assign("s", key, min(a, b)) == CHALLENGER:
        assert assign("s", key, max(a, b)) == CHALLENGER


@given(st.text(st.characters(codec="utf-8")))
def test_nobody_at_zero_everybody_at_one(key: str) -> None:
    assert assign("s", key, 0.0) == CHAMPION
    assert assign("s", key, 1.0) == CHALLENGER


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_of_keys_is_the_share_asked_for(share: float) -> None:
    dealt = [assign("rollout", f"user-{i}", share) == CHALLENGER for i in range(20_000)]
    assert np.mean(dealt) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20_000))


def test_another_salt_deals_independently() -> None:
    a = np.array([position("first", f"user-{i}") for i in range(5_000)])
    b = np.array([position("second", f"user-{i}") for i in range(5_000)])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
