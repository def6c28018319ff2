"""Which variant answers a request: a salted hash places each routing key on a circle, the interval [0, 1).

Each challenger owns a slice of the circle. Of n challengers the i-th slice starts at i/n and grows from there; the
champion owns what no slice covers. Sticky: a key keeps its variant as long as the shares stay. Monotone: as a
challenger's share grows, none of its keys moves to the champion or to another challenger, because a slice's start never
moves. While all grow alike and none beyond 1/n, slices do not overlap; a challenger that is left alone keeps growing,
past the end of the circle into what the others have left. Each rollout has its own salt, which assigns keys
independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from deployments.serve_schema import TrafficSplit

# A float64 holds 53 bits exactly: with more, the largest hashes would round up to 1.0.
_BITS = 53


def assign_variant(split: TrafficSplit | None, key: str, pinned: str | None = None) -> str | None:
    """Choose the variant that serves a request.

    Args:
        split: The challengers and their shares; None outside of a rollout.
        key: The request's routing key.
        pinned: Version that a tester has pinned; it overrides the split.

    Returns:
        The challenger's version, or None for the champion.
    """
    if split is None:
        return None
    if pinned is not None:
        return pinned if any(challenger.version == pinned for challenger in split.challengers) else None
    index = find_slice(split.rollout, key, split.share, split.starts)
    return None if index is None else split.challengers[index].version


def choose_copy(split: TrafficSplit, key: str) -> str | None:
    """Choose the challenger that gets a copy of a request that the champion answers.

    Both hashes have salts of their own: which keys are copied depends on nothing else. Monotone: as the fraction grows,
    every key that was copied still is, to the same challenger.

    Returns:
        The challenger's version, or None when the request is not copied.
    """
    if split.copies < 1.0 and hash_position(f"{split.rollout} copies", key) >= split.copies:
        return None
    versions = [challenger.version for challenger in split.challengers]
    if len(versions) == 1:
        return versions[0]
    return versions[int(hash_position(f"{split.rollout} copied to", key) * len(versions))]


def hash_position(salt: str, key: str) -> float:
    """Position of ``key`` in [0, 1), uniform over keys."""
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    return (int.from_bytes(digest.digest(), "big") >> (64 - _BITS)) / 2.0**_BITS


def slice_start(index: int, challengers: int) -> float:
    """Start of the slice of one of several challengers, on the grid of positions, so that distances are exact."""
    return (index << _BITS) // challengers / 2.0**_BITS


def find_slice(salt: str, key: str, share: float, starts: Sequence[float] = (0.0,)) -> int | None:
    """Index of the slice that holds a key; None: the champion's part.

    Args:
        salt: Makes the positions of one rollout independent of those of others.
        key: Key of the request.
        share: Length of each slice, in [0, 1].
        starts: Start of each slice, in [0, 1); a slice may wrap around.
    """
    at = hash_position(salt, key)
    for index, begin in enumerate(starts):
        if (at - begin) % 1.0 < share:
            return index
    return None
