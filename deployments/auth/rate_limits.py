"""Rate limits by caller: so many requests within any window of time, counted in this replica or in Redis.

Moving windows: a request counts from the moment it is admitted until the window's length has passed. Without a store
each replica counts on its own, so that n replicas admit up to n times the limit; with Redis all count together.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from limits import RateLimitItem, parse
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from cluster.errors import RequestError, SettingsError

# A moving window holds one entry for each request it admitted.
MAX_REQUESTS_PER_WINDOW = 100_000
_SWEEP_AT = 1024
_SHARED_WITHIN_S = 0.25
_RETRY_SHARED_S = 5.0

_log = logging.getLogger(__name__)


class RateLimiter(Protocol):
    """Counts admitted requests by subject."""

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        """Admit a request and return 0.0, or return the seconds until the next one would be admitted."""
        ...


class LocalRateLimiter:
    """Windows in this process. ``clock`` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._admitted: dict[str, deque[float]] = {}
        self._ends: dict[str, float] = {}
        self._sweep_at = _SWEEP_AT

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        now, length = self._clock(), rate.get_expiry()
        admitted = self._admitted.get(subject)
        if admitted is None:
            admitted = self._open(subject, now)
        while admitted and admitted[0] <= now - length:
            admitted.popleft()
        if len(admitted) >= rate.amount:
            return admitted[0] + length - now
        admitted.append(now)
        self._ends[subject] = now + length
        return 0.0

    def _open(self, subject: str, now: float) -> deque[float]:
        """A new subject's window. Subjects that have long been silent are forgotten, at a cost that is constant on average."""
        if len(self._admitted) >= self._sweep_at:
            for silent in [known for known, end in self._ends.items() if end <= now]:
                del self._admitted[silent], self._ends[silent]
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._admitted))
        return self._admitted.setdefault(subject, deque())


class RedisRateLimiter:
    """Windows in Redis. While it is away each replica counts on its own, and tries again every few seconds."""

    def __init__(self, uri: str, local: RateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        storage: Any = _storage(uri)
        self._limiter, self._local, self._clock = MovingWindowRateLimiter(storage), local, clock
        self._where = urlsplit(uri).hostname
        self._away_until = -math.inf

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        if self._clock() < self._away_until:
            return await self._local.hit(rate, subject)
        try:
            # Redis's client has time limits of its own, but tries again and again.
            async with asyncio.timeout(_SHARED_WITHIN_S):
                return await self._shared(rate, subject)
        except Exception as error:
            # Of many kinds: sockets, time-outs and Redis's own. None is a reason to leave a caller without an answer.
            if self._clock() >= self._away_until:
                _log.error("no rate limits by Redis at %s, this replica counts on its own: %r", self._where, error)
            self._away_until = self._clock() + _RETRY_SHARED_S
            return await self._local.hit(rate, subject)

    async def _shared(self, rate: RateLimitItem, subject: str) -> float:
        if await self._limiter.hit(rate, subject):
            return 0.0
        stats = await self._limiter.get_window_stats(rate, subject)
        return max(1e-3, stats.reset_time - time.time())


def open_rate_limiter(uri: str) -> RateLimiter:
    """Windows behind RAYLOOP_RATE_STORE; empty: in this process. Raises SettingsError."""
    return RedisRateLimiter(uri, LocalRateLimiter()) if uri else LocalRateLimiter()


async def enforce_rate(windows: RateLimiter, rate: str, subject: str) -> None:
    """Count a request. Raises RequestError, 429, with the seconds to wait."""
    wait_s = await windows.hit(parse_rate(rate), subject)
    if wait_s > 0.0:
        seconds = max(1, math.ceil(wait_s))
        raise RequestError(
            f"more than {rate} requests",
            field="authorization",
            status=429,
            todo=f"wait {seconds} s",
            headers={"retry-after": str(seconds)},
        )


@lru_cache(maxsize=1024)
def parse_rate(text: str) -> RateLimitItem:
    """A limit such as ``100/minute`` or ``20 per 10 second``. Raises SettingsError."""
    try:
        rate = parse(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} is no rate limit", "write it like 100/minute or 20 per 10 second") from error
    if not 1 <= rate.amount <= MAX_REQUESTS_PER_WINDOW:
        raise SettingsError(
            f"the rate limit {text!r} counts {rate.amount:,} requests, 1 to {MAX_REQUESTS_PER_WINDOW:,} can be counted",
            "take a shorter window: 1000/second instead of 60000/minute",
        )
    return rate


def _storage(uri: str) -> Any:
    known = "RAYLOOP_RATE_STORE takes redis://host:6379, rediss:// or redis+cluster://"
    if not uri.startswith("redis"):
        raise SettingsError(f"the store of rate limits {uri!r} is of no known kind", known)
    try:
        return storage_from_string(f"async+{uri}", implementation="redispy")
    except (ConfigurationError, ValueError) as error:
        raise SettingsError(f"the store of rate limits cannot be used: {error}", known) from error
