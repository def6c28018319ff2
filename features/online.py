"""The online store: recent events of each entity, keyed by view and key. One interface, LMDB embedded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse

import lmdb

from cluster.errors import SettingsError

# An address range, not memory or disk: LMDB files grow as they are written.
_MAP_BYTES = 1 << 36
_MAX_READERS = 512


class OnlineStore(Protocol):
    """A map from bytes to bytes with a multi-get and an atomic multi-put."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, None where there is none."""
        ...

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        """Write all or nothing."""
        ...

    def keys(self, prefix: bytes) -> Iterable[bytes]: ...

    def delete(self, keys: Iterable[bytes]) -> None: ...


class LmdbStore:
    """One LMDB environment; many processes of one machine may read while one writes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=_MAP_BYTES, max_readers=_MAX_READERS, sync=False)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._env.begin() as transaction:
            return [transaction.get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._env.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)

    def keys(self, prefix: bytes) -> list[bytes]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            found: list[bytes] = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(values=False):
                    if not key.startswith(prefix):
                        break
                    found.append(bytes(key))
            return found

    def delete(self, keys: Iterable[bytes]) -> None:
        with self._env.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)


# LMDB forbids opening one environment twice in a process.
_open: dict[str, LmdbStore] = {}
_opening = threading.Lock()


def open_store(uri: str) -> OnlineStore:
    """The store behind ``lmdb://<folder>``. Raises SettingsError for another scheme."""
    parsed = urlparse(uri)
    if parsed.scheme != "lmdb":
        raise SettingsError(f"online store {uri!r} is of no known kind", "RAYLOOP_ONLINE_STORE takes lmdb://<folder>")
    folder = str(Path(parsed.netloc + parsed.path).absolute())
    with _opening:
        if folder not in _open:
            _open[folder] = LmdbStore(Path(folder))
        return _open[folder]
