"""Who gets the challenger: a salted hash of the routing key.

Sticky: one key, one answer, as long as the share stays. Monotone: as the share grows, nobody moves
back to the champion. Another salt (each rollout has its own) deals the keys anew.
"""

from __future__ import annotations

from hashlib import blake2b

from cluster.contracts import Variant

# A float64 holds 53 bits exactly: with more, the largest hashes would round up to 1.0.
_BITS = 53


def position(salt: str, key: str) -> float:
    """Where ``key`` falls in [0, 1), uniform over keys."""
    digest = blake2b(key.encode(), digest_size=8, key=blake2b(salt.encode(), digest_size=32).digest())
    return (int.from_bytes(digest.digest(), "big") >> (64 - _BITS)) / 2.0**_BITS


def assign(salt: str, key: str, share: float) -> Variant:
    """The variant that serves ``key`` when the challenger's share of keys is ``share`` in [0, 1]."""
    return "challenger" if position(salt, key) < share else "champion"
