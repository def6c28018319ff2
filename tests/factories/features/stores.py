"""An online store in memory, for tests that make many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from features.online.store import Change


class MemoryStore:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.values |= values

    def update(self, name: bytes, keys: Sequence[bytes], change: Change) -> None:
        self.put_many(change(self.get_many(keys)))

    def keys(self, prefix: bytes) -> list[bytes]:
        return [key for key in self.values if key.startswith(prefix)]

    def delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.values.pop(key, None)
