"""Requests and failures of each routing key, by variant. Pure.

Time buckets are counted by the same class (evidence_collector.py): a bucket is a key of the requests that came in it.

Memory is bounded: beyond MAX_KEYS only keys whose hash is below a limit are remembered, and the limit is halved as
often as needed (Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries", VLDB 2001). The
hash is not that of the split, so the remembered keys are assigned to variants as all keys are. A key that was counted
stays counted when it is forgotten, and is ignored when it returns: whether a key counts is determined before it comes,
as the sequential test of the split requires.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b

from deployments.analysis.evidence import ClusterStats

MAX_KEYS = 50_000
HASHES = 2**64
"""Values of key_hash."""

KeyTotals = list[int]
"""Requests and failures of one key."""


class KeyCounter:
    """Counts keys at one share of a rollout, or over all shares."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._limit = HASHES
        self._counts: dict[str, dict[str, KeyTotals]] = defaultdict(dict)
        self._sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._key_counts: dict[str, int] = defaultdict(int)

    def __len__(self) -> int:
        """Number of keys that are remembered."""
        return sum(len(counts) for counts in self._counts.values())

    def add(self, variant: str, requests: Iterable[tuple[str, bool]]) -> None:
        """Count requests of a variant, given the key of each and whether the variant failed it."""
        counts, sums = self._counts[variant], self._sums[variant]
        for key, failed in requests:
            if self._limit < HASHES and key_hash(key) >= self._limit:
                continue
            self._key_counts[variant] += key not in counts
            totals = counts.setdefault(key, [0, 0])
            _add_pairs(sums, totals, failed)
            totals[0] += 1
            totals[1] += failed
        while len(self) > self._most:
            self._thin()

    def key_count(self, variant: str) -> int:
        """How many keys the variant has had."""
        return self._key_counts[variant]

    def cluster_stats(self, variant: str) -> ClusterStats:
        """Estimates of the cluster sums, with keys as clusters."""
        scale = HASHES // self._limit
        pairs, half, failed, failing = (value * scale for value in self._sums[variant])
        return ClusterStats(pairs=pairs, half_pairs=half, failed_pairs=failed, failing_clusters=failing)

    def _thin(self) -> None:
        self._limit //= 2
        for variant, counts in self._counts.items():
            remaining_counts = {key: totals for key, totals in counts.items() if key_hash(key) < self._limit}
            self._counts[variant] = remaining_counts
            self._sums[variant] = [
                sum(n * (n - 1) for n, _ in remaining_counts.values()),
                sum(f * (n - 1) for n, f in remaining_counts.values()),
                sum(f * (f - 1) for _, f in remaining_counts.values()),
                sum(f > 0 for _, f in remaining_counts.values()),
            ]


def _add_pairs(sums: list[int], before: KeyTotals, failed: bool) -> None:
    """Add the ordered pairs that a further request forms with those before it, and the key at its first failure."""
    requests, failures = before
    sums[0] += 2 * requests
    sums[1] += failures + failed * requests
    sums[2] += 2 * failures * failed
    sums[3] += failed and not failures


def key_hash(key: str) -> int:
    """64-bit hash of a key, independent of the hash that splits traffic."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
