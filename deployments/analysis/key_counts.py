"""How often each routing key came, and failed, by variant: what the split dealt, and who comes again. Pure.

Moments are counted by it as well (evidence_collector.py): a moment is a key of the requests that came in it.

Memory is bounded: beyond MAX_KEYS only keys whose hash lies below a limit are remembered, and the limit is halved as
often as needed (Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries", VLDB 2001). The
hash is not that of the split, so what is remembered is dealt as all keys are. A key that was counted stays counted when
it is forgotten, and is passed over when it comes again: whether a key counts is settled before it comes, as the
sequential test of the split asks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b

from deployments.analysis.evidence import Alike

MAX_KEYS = 50_000
_HASHES = 2**64

Counts = list[int]
"""Requests and failures of one key."""


class Keys:
    """Keys of one share of a rollout, or of all shares together."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._limit = _HASHES
        self._counts: dict[str, dict[str, Counts]] = defaultdict(dict)
        self._sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._dealt: dict[str, int] = defaultdict(int)

    def __len__(self) -> int:
        """Keys that are remembered."""
        return sum(len(counts) for counts in self._counts.values())

    def add(self, variant: str, requests: Iterable[tuple[str, bool]]) -> None:
        """Count requests of a variant: the key of each, and whether the variant failed it."""
        counts, sums = self._counts[variant], self._sums[variant]
        for key, failed in requests:
            if self._limit < _HASHES and key_hash(key) >= self._limit:
                continue
            self._dealt[variant] += key not in counts
            one = counts.setdefault(key, [0, 0])
            _pair(sums, one, failed)
            one[0] += 1
            one[1] += failed
        while len(self) > self._most:
            self._thin()

    def dealt(self, variant: str) -> int:
        """How many keys were counted."""
        return self._dealt[variant]

    def alike(self, variant: str) -> Alike:
        """Estimates of the sums over pairs of requests of one key, and of how many keys had a failure."""
        scale = _HASHES // self._limit
        pairs, half, failed, failing = (value * scale for value in self._sums[variant])
        return Alike(pairs=pairs, half_pairs=half, failed_pairs=failed, failing=failing)

    def _thin(self) -> None:
        self._limit //= 2
        for variant, counts in self._counts.items():
            kept = {key: one for key, one in counts.items() if key_hash(key) < self._limit}
            self._counts[variant] = kept
            self._sums[variant] = [
                sum(n * (n - 1) for n, _ in kept.values()),
                sum(f * (n - 1) for n, f in kept.values()),
                sum(f * (f - 1) for _, f in kept.values()),
                sum(f > 0 for _, f in kept.values()),
            ]


def _pair(sums: list[int], before: Counts, failed: bool) -> None:
    """Add the ordered pairs that one more request makes with those before it, and the key when it fails first."""
    requests, failures = before
    sums[0] += 2 * requests
    sums[1] += failures + failed * requests
    sums[2] += 2 * failures * failed
    sums[3] += failed and not failures


def key_hash(key: str) -> int:
    """64 bits that have nothing to do with those of the split."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
