"""The online store: recent events of each entity, by project, view and key; LMDB on one machine, Redis on a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from cluster.errors import SettingsError
from cluster.settings import hide_password
from features.online.keys import project_prefix
from features.online.lmdb_store import LmdbStore

Change = Callable[[list[bytes | None]], Mapping[bytes, bytes]]
"""Computes what to write from what was read; it may run several times, and does nothing else."""


class StateReader(Protocol):
    """A map from bytes to bytes with multi-get."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return values in the order of the keys, None where there is none; all from one point in time."""


class StateMap(StateReader, Protocol):
    """A map with atomic multi-put and atomic update, too."""

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        """Write all values or none."""

    def update(self, name: bytes, keys: Sequence[bytes], change: Change) -> None:
        """Read values and write what ``change`` makes of them, all or none.

        Updates of one name, from any thread, process or machine, happen one after another. When the outcome is unclear,
        because the store did not answer, this raises and does not try again.

        Args:
            name: What is updated.
            keys: The keys to read.
            change: Returns the new values for the values of the keys.
        """


class OnlineStore(StateMap, Protocol):
    """A map that also lists and deletes keys."""

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        """Return the keys that begin with ``prefix``, in any order."""

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete the keys; missing ones are ignored."""


class ProjectStore:
    """The part of a store that belongs to one project.

    Args:
        shared: The store of all projects.
        project: Name of the project.
    """

    def __init__(self, shared: OnlineStore, project: str) -> None:
        self.shared = shared
        """The store of all projects, in which this project's keys begin with ``prefix``."""
        self.prefix = project_prefix(project)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        prefix = self.prefix
        return self.shared.get_many([prefix + key for key in keys])

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        self.shared.put_many(self._prefixed(values))

    def update(self, name: bytes, keys: Sequence[bytes], change: Change) -> None:
        prefixed = [self.prefix + key for key in keys]
        self.shared.update(self.prefix + name, prefixed, lambda values: self._prefixed(change(values)))

    def keys(self, prefix: bytes) -> list[bytes]:
        return [key[len(self.prefix) :] for key in self.shared.keys(self.prefix + prefix)]

    def delete(self, keys: Iterable[bytes]) -> None:
        self.shared.delete(self.prefix + key for key in keys)

    def _prefixed(self, values: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        return {self.prefix + key: value for key, value in values.items()}


_lock = threading.Lock()


def open_store(uri: str, project: str) -> ProjectStore:
    """Open a project's part of the store at ``lmdb://<folder>`` or ``redis://<host>``.

    Raises:
        SettingsError: The scheme is unknown, or the client of Redis is not installed.
        StoreUnavailable: The files are damaged, or cannot be opened.
    """
    return ProjectStore(open_shared_store(uri), project)


def open_serving_store(uri: str, project: str) -> ProjectStore:
    """Open a project's part of the store for a served model: a store that hangs costs a read 0.1 s at most.

    Raises:
        SettingsError: The scheme is unknown, or the client of Redis is not installed.
        StoreUnavailable: The files are damaged, or cannot be opened.
    """
    return ProjectStore(_open_shared(uri, True), project)


def open_shared_store(uri: str) -> OnlineStore:
    """Open the store of all projects.

    Raises:
        SettingsError: The scheme is unknown, or the client of Redis is not installed.
        StoreUnavailable: The files are damaged, or cannot be opened.
    """
    return _open_shared(uri, False)


def _open_shared(uri: str, serving: bool) -> OnlineStore:
    """The same store for the same address."""
    parsed = urlsplit(uri)
    with _lock:
        if parsed.scheme == "lmdb":
            return _open_lmdb(Path(parsed.netloc + parsed.path).absolute())
        if parsed.scheme in ("redis", "rediss", "unix"):
            return _open_redis(uri, serving)
    reason = f"unknown scheme of {hide_password(uri)}"
    raise SettingsError("settings.online_store", variable="RAYLOOP_ONLINE_STORE", reason=reason)


# LMDB must not open an environment twice in one process.
_open_lmdb = cache(LmdbStore)


@cache
def _open_redis(uri: str, serving: bool) -> OnlineStore:
    # The client is an optional dependency, rayloop[redis].
    from features.online.redis_store import RedisStore, ServingRedisStore

    return ServingRedisStore(uri) if serving else RedisStore(uri)
