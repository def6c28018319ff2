"""The online store in Redis (or a server that speaks its protocol), which all machines of a cluster share."""

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
    raise SettingsError(
        "the online store is Redis, and its client is not installed", "install rayloop[redis]"
    ) from error

_CONNECT_WITHIN_S = 2.0
# A chunk of a first load is one transaction of some tens of megabytes.
_ANSWER_WITHIN_S = 30.0
_AT_ONCE = 10_000
_GLOB = b"*?[]\\"


class RedisStore:
    """One Redis database. Keys of one read need one node: a primary with replicas, not a cluster of shards."""

    def __init__(self, uri: str) -> None:
        parsed = urlsplit(uri)
        self._where = parsed.hostname or parsed.path
        try:
            self._redis: Any = redis.Redis.from_url(
                uri, socket_connect_timeout=_CONNECT_WITHIN_S, socket_timeout=_ANSWER_WITHIN_S, decode_responses=False
            )
        except ValueError as error:
            raise SettingsError(f"RAYLOOP_ONLINE_STORE is no address of a Redis: {error}") from error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._reported():
            found: list[bytes | None] = self._redis.mget(keys)
            return found

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._reported(), self._redis.pipeline(transaction=True) as transaction:
            for part in _parts(values.items()):
                transaction.mset(dict(part))
            transaction.execute()

    def keys(self, prefix: bytes) -> list[bytes]:
        pattern = b"".join(b"\\" + bytes([c]) if c in _GLOB else bytes([c]) for c in prefix) + b"*"
        with self._reported():
            # A scan may give a key twice.
            return sorted(set(self._redis.scan_iter(match=pattern, count=_AT_ONCE)))

    def delete(self, keys: Iterable[bytes]) -> None:
        with self._reported():
            for part in _parts(keys):
                self._redis.unlink(*part)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except redis.ConnectionError as error:
            raise StoreUnavailable(
                f"the online store at {self._where} does not answer: {error}",
                "check RAYLOOP_ONLINE_STORE and the server",
            ) from error
        except redis.TimeoutError as error:
            raise StoreUnavailable(f"the online store at {self._where} took too long: {error}") from error


def _parts(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, _AT_ONCE)):
        yield part
