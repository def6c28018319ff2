"""The online store: recent events of each entity, by view and key. LMDB on one machine, Redis for a cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import lmdb

from cluster.errors import SettingsError

# A range of addresses, not memory or disk: LMDB files grow as they are written.
_MAP_BYTES = 1 << 36
_MAX_READERS = 512


class StateMap(Protocol):
    """A map from bytes to bytes with multi-get and atomic multi-put."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return values in the order of the keys, None where there is none; all from one point in time."""

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        """Write all values or none."""


class OnlineStore(StateMap, Protocol):
    """A map that also lists and deletes keys. One process writes at a time."""

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """Return the keys that begin with ``prefix``, in any order."""

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete the keys; missing ones are ignored."""


class LmdbStore:
    """One LMDB environment. Many processes of one machine may read while one writes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(folder), map_size=_MAP_BYTES, max_readers=_MAX_READERS, sync=False)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._env.begin() as transaction:
            get = transaction.get
            return [get(key) for key in keys]

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            # In page order, so that each page is written once.
            cursor.putmulti(sorted(values.items(), key=itemgetter(0)))

    def keys(self, prefix: bytes) -> list[bytes]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            keys: list[bytes] = []
            if cursor.set_range(prefix):
                for key in cursor.iternext(values=False):
                    if not key.startswith(prefix):
                        break
                    keys.append(bytes(key))
            return keys

    def delete(self, keys: Iterable[bytes]) -> None:
        with self._env.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)


_lock = threading.Lock()


def open_store(uri: str) -> OnlineStore:
    """Open the store at ``lmdb://<folder>`` or ``redis://<host>``; the same store for the same address.

    Raises:
        SettingsError: The scheme is unknown, or the client of Redis is not installed.
    """
    parsed = urlsplit(uri)
    with _lock:
        if parsed.scheme == "lmdb":
            return _open_lmdb(Path(parsed.netloc + parsed.path).absolute())
        if parsed.scheme in ("redis", "rediss", "unix"):
            return _open_redis(uri)
    raise SettingsError("settings.online_store", variable="RAYLOOP_ONLINE_STORE", reason=f"unknown scheme of {uri}")


# LMDB must not open an environment twice in one process.
_open_lmdb = cache(LmdbStore)


@cache
def _open_redis(uri: str) -> OnlineStore:
    # The client is an optional dependency, rayloop[redis].
    from features.online.redis_store import RedisStore

    return RedisStore(uri)
