"""Who gets a challenger: a salted hash of the routing key gives each key a place in [0, 1), as on a circle.

Each challenger owns a slice of the circle. Of n challengers the i-th slice starts at i/n and grows from there; what no
slice covers is the champion's. Sticky: one key, one answer, as long as the shares stay. Monotone: as a challenger's
share grows, none of its keys moves to the champion or to another challenger, for a start never moves. While all grow
alike and none beyond 1/n, slices do not meet; one that is left alone grows on, over the end of the circle into what
the others have left. Another salt (each rollout has its own) deals the keys anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

# A float64 holds 53 bits exactly: with more, the largest hashes would round up to 1.0.
_BITS = 53


def hash_position(salt: str, key: str) -> float:
    """Where ``key`` falls in [0, 1), uniform over keys."""
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    return (int.from_bytes(digest.digest(), "big") >> (64 - _BITS)) / 2.0**_BITS


def slice_start(index: int, challengers: int) -> float:
    """Where the slice of one of several challengers begins: on the grid of positions, so that distances are exact."""
    return (index << _BITS) // challengers / 2.0**_BITS


def find_slice(salt: str, key: str, share: float, starts: Sequence[float] = (0.0,)) -> int | None:
    """Which of the challengers serves ``key``, each having a slice of ``share`` in [0, 1]; None: the champion."""
    at = hash_position(salt, key)
    for index, begin in enumerate(starts):
        if (at - begin) % 1.0 < share:
            return index
    return None
