"""The online store in Redis, or a server with its protocol, shared by all machines of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import SettingsError, StoreUnavailable

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.lock import Lock
    from redis.retry import Retry
except ImportError as error:
    raise SettingsError("settings.redis_client_missing") from error

_CONNECT_TIMEOUT_S = 2.0
# One chunk of a first load is a transaction of tens of megabytes.
_RESPONSE_TIMEOUT_S = 30.0
# Leaves a request that may wait 100 ms some time for everything else.
_SERVING_TIMEOUT_S = 0.08
_PAUSE_S = 0.25
# A writer that dies holds its lock for the first of these times. A slower one loses it, and tries again for longer.
_LOCKS_S = (5, 60, 600)
_LOCK_WAIT_S = 60
_LOCK_POLL_S = 0.005
_BATCH_KEYS = 10_000
_GLOB = b"*?[]\\"


class RedisStore:
    """One Redis database. All keys must be on one node: a primary with replicas, not a sharded cluster."""

    def __init__(
        self, uri: str, connect_timeout_s: float = _CONNECT_TIMEOUT_S, response_timeout_s: float = _RESPONSE_TIMEOUT_S
    ) -> None:
        parsed = urlsplit(uri)
        self._address = parsed.hostname or parsed.path
        try:
            self._redis: Any = redis.Redis.from_url(
                uri,
                socket_connect_timeout=connect_timeout_s,
                socket_timeout=response_timeout_s,
                # A connection that the server closed is opened again at once; after a timeout, the caller decides.
                retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
                decode_responses=False,
            )
        except ValueError as error:
            raise SettingsError("settings.online_store", variable="RAYLOOP_ONLINE_STORE", reason=str(error)) from error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._translate_errors():
            return self._redis.mget(keys)

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._translate_errors(), self._redis.pipeline(transaction=True) as transaction:
            _put(transaction, values)
            transaction.execute()

    def update(
        self, name: bytes, keys: Sequence[bytes], change: Callable[[list[bytes | None]], Mapping[bytes, bytes]]
    ) -> None:
        # With a lock and not by trying until no other write intervened: a chunk of a first load takes seconds, and
        # would never succeed beside a stream of pushes.
        with self._translate_errors():
            for lock_s in _LOCKS_S:
                lock = self._redis.lock(
                    name + b"lock", timeout=lock_s, sleep=_LOCK_POLL_S, blocking_timeout=_LOCK_WAIT_S,
                    raise_on_release_error=False,
                )  # fmt: skip
                with lock:
                    if self._write_if_owned(lock, change(self.get_many(keys))):
                        return
        raise StoreUnavailable("store.busy", address=self._address, wait_s=_LOCKS_S[-1])

    def _write_if_owned(self, lock: Lock, values: Mapping[bytes, bytes]) -> bool:
        """Write, unless the lock expired: then another writer may have changed what was read."""
        with self._redis.pipeline(transaction=True) as transaction:
            try:
                # Without this key, or with another value, EXEC writes nothing.
                transaction.watch(lock.name)
                if transaction.get(lock.name) != lock.local.token:
                    return False
                transaction.multi()
                _put(transaction, values)
                transaction.execute()
            except redis.WatchError as error:
                # The client also raises this when the connection fails, and then the outcome is unknown.
                if isinstance(error.__context__, redis.ConnectionError | redis.TimeoutError):
                    raise error.__context__ from error
                return False
        return True

    def keys(self, prefix: bytes) -> list[bytes]:
        pattern = b"".join(b"\\" + bytes([c]) if c in _GLOB else bytes([c]) for c in prefix) + b"*"
        with self._translate_errors():
            # A scan may return a key twice.
            return sorted(set(self._redis.scan_iter(match=pattern, count=_BATCH_KEYS)))

    def delete(self, keys: Iterable[bytes]) -> None:
        with self._translate_errors():
            for batch in _batches(keys):
                self._redis.unlink(*batch)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.LockError as error:
            raise StoreUnavailable("store.busy", address=self._address, wait_s=_LOCK_WAIT_S) from error
        except redis.ConnectionError as error:
            raise StoreUnavailable("store.unreachable", address=self._address, reason=str(error)) from error
        except redis.TimeoutError as error:
            raise StoreUnavailable("store.timeout", address=self._address, reason=str(error)) from error
        except redis.RedisError as error:
            raise StoreUnavailable("store.failed", address=self._address, reason=str(error)) from error


class ServingRedisStore(RedisStore):
    """Redis for served models: a server that hangs costs a read 0.08 s, and the reads of the next 0.25 s nothing.

    Without the pause, each of the requests that wait in a replica would wait once more for the same server.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri, _SERVING_TIMEOUT_S, _SERVING_TIMEOUT_S)
        self._paused_until = 0.0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if time.monotonic() < self._paused_until:
            raise StoreUnavailable("store.paused", address=self._address, pause_s=_PAUSE_S)
        try:
            return super().get_many(keys)
        except StoreUnavailable:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise


def _put(transaction: Any, values: Mapping[bytes, bytes]) -> None:
    for batch in _batches(values.items()):
        transaction.mset(dict(batch))


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH_KEYS)):
        yield batch
