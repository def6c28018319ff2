"""An online store in memory, for tests that make many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class MemoryStore:
    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.held.get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.held |= values

    def keys(self, prefix: bytes) -> list[bytes]:
        return [key for key in self.held if key.startswith(prefix)]

    def delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.held.pop(key, None)
