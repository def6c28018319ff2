"""Keys of entity states: what fits is kept as text, and what does not is hashed."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.online.keys import project_prefix, state_key, state_keys

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


@given(st.text(max_size=60), st.text(max_size=60), st.binary(max_size=30))
@example("a", "a/1:b", b"")
@example("a", "a.b", b"")
@example("1:a", "a", b"")
def test_project_prefixes_are_no_prefix_of_another_project_and_leave_room(one: str, other: str, rest: bytes) -> None:
    assert len(project_prefix(one)) <= 511 - LONGEST
    assert one == other or not (project_prefix(one) + rest).startswith(project_prefix(other))


@given(st.text(max_size=60))
def test_project_prefixes_begin_no_key_of_release_0_1(project: str) -> None:
    """Its keys began with 16 hexadecimal digits, or with the name of a mark."""
    assert not re.match(rb"[0-9a-f]{16}|watermark/|position/", project_prefix(project))
