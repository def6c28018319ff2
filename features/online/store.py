"""The online store: recent events of each entity, keyed by view and key. One interface: LMDB embedded, Redis shared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import lmdb

from cluster.errors import SettingsError

# An address range, not memory or disk: LMDB files grow as they are written.
_MAP_BYTES = 1 << 36
_MAX_READERS = 512


class OnlineStore(Protocol):
    """A map from bytes to bytes with a multi-get and an atomic multi-put. One process writes at a time."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys, None where there is none; all as of one moment."""
        ...

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        """Write all or nothing."""
        ...

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """The keys that begin with ``prefix``, in any order."""
        ...

    def delete(self, keys: Iterable[bytes]) -> None:
        """Remove the keys; absent is fine."""
        ...


class LmdbStore:
    """One LMDB environment; many processes of one machine may read while one writes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=_MAP_BYTES, max_readers=_MAX_READERS, sync=False)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._env.begin() as transaction:
            get = transaction.get
            return [get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            # In the order of its pages, each is touched once.
            cursor.putmulti(sorted(values.items(), key=itemgetter(0)))

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
_open: dict[str, OnlineStore] = {}
_opening = threading.Lock()


def open_store(uri: str) -> OnlineStore:
    """The store behind ``lmdb://<folder>`` or ``redis://<host>``. Raises SettingsError for another scheme."""
    scheme = urlsplit(uri).scheme
    if scheme not in _OPEN:
        raise SettingsError(
            f"online store {uri!r} is of no known kind", "RAYLOOP_ONLINE_STORE takes lmdb://<folder> or redis://<host>"
        )
    with _opening:
        return _OPEN[scheme](uri)


def _open_lmdb(uri: str) -> OnlineStore:
    parsed = urlsplit(uri)
    folder = str(Path(parsed.netloc + parsed.path).absolute())
    if folder not in _open:
        _open[folder] = LmdbStore(Path(folder))
    return _open[folder]


def _open_redis(uri: str) -> OnlineStore:
    # Its client comes with the extra rayloop[redis].
    from features.online.redis_store import RedisStore

    if uri not in _open:
        _open[uri] = RedisStore(uri)
    return _open[uri]


_OPEN: dict[str, Callable[[str], OnlineStore]] = {
    "lmdb": _open_lmdb, "redis": _open_redis, "rediss": _open_redis, "unix": _open_redis,
}  # fmt: skip
