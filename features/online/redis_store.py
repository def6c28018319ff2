"""The online store in Redis, or a server with its protocol, shared by all machines of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from cluster.errors import SettingsError, StoreUnavailable

try:
    import redis
except ImportError as error:
    raise SettingsError("settings.redis_client_missing") from error

_CONNECT_TIMEOUT_S = 2.0
# One chunk of a first load is a transaction of tens of megabytes.
_RESPONSE_TIMEOUT_S = 30.0
_BATCH_KEYS = 10_000
_GLOB = b"*?[]\\"


class RedisStore:
    """One Redis database. All keys must be on one node: a primary with replicas, not a sharded cluster."""

    def __init__(self, uri: str) -> None:
        parsed = urlsplit(uri)
        self._address = parsed.hostname or parsed.path
        try:
            self._redis: Any = redis.Redis.from_url(
                uri,
                socket_connect_timeout=_CONNECT_TIMEOUT_S,
                socket_timeout=_RESPONSE_TIMEOUT_S,
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
            for batch in _batches(values.items()):
                transaction.mset(dict(batch))
            transaction.execute()

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
        except redis.ConnectionError as error:
            raise StoreUnavailable("store.unreachable", address=self._address, reason=str(error)) from error
        except redis.TimeoutError as error:
            raise StoreUnavailable("store.timeout", address=self._address, reason=str(error)) from error


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH_KEYS)):
        yield batch
