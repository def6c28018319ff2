"""Keys of entity states: what fits is kept as text, and what does not is hashed."""

from __future__ import annotations

import hashlib

import pytest

from features.online.keys import state_key, state_keys

PREFIX = b"view/"
LONGEST = 480
"""Bytes of a key that is kept as it is."""


@pytest.mark.parametrize("columns", [1, 2])
def test_state_key_of_the_longest_text_is_kept_and_of_a_longer_one_hashed(columns: int) -> None:
    first = ("ab",) * (columns - 1)
    head = PREFIX + b"2:ab" * (columns - 1)
    text = "x" * (LONGEST - len(head))
    assert state_key(PREFIX, (*first, text)) == head + text.encode()
    hashed = PREFIX + b"\xff" + hashlib.sha256(head + text.encode() + b"x").digest()
    assert state_key(PREFIX, (*first, text + "x")) == hashed


@pytest.mark.parametrize("lengths", [(1, 2), (LONGEST, 1), (1, LONGEST + 1), (LONGEST + 1, LONGEST + 1)])
def test_state_keys_equal_the_key_of_each_entity(lengths: tuple[int, ...]) -> None:
    texts = ["x" * (length - len(PREFIX)) for length in lengths]
    assert state_keys(PREFIX, [texts]) == [state_key(PREFIX, (text,)) for text in texts]
    pairs = [texts, ["y"] * len(texts)]
    assert state_keys(PREFIX, pairs) == [state_key(PREFIX, pair) for pair in zip(*pairs, strict=True)]


def test_state_keys_of_no_entity_are_none() -> None:
    assert state_keys(PREFIX, [[]]) == []
