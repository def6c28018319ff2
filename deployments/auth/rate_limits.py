"""Rate limits by caller: at most so many requests in any window of time, counted in this replica or in Redis.

Windows move: a request counts from its admission until the window's length has passed. Without a shared store each
replica counts on its own, so that n replicas admit up to n times the limit; with Redis they count together.
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
from cluster.settings import hide_password

MAX_REQUESTS_PER_WINDOW = 100_000
"""A moving window holds one entry for each request it admitted."""
SWEEP_SIZE = 1024
"""Number of callers from which on silent ones are dropped."""
REDIS_RETRY_S = 5.0
REDIS_TIMEOUT_S = 0.25

_log = logging.getLogger(__name__)


class RateLimiter(Protocol):
    """Counts admitted requests by subject."""

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        """Admit a request and return 0.0, or return the seconds until the next one would be admitted."""
        ...


class LocalRateLimiter:
    """Counts in this process.

    By hand: a hit takes 5 us; the memory storage of `limits` takes 60 to 110 us, and follows the wall clock.

    Args:
        clock: Returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._admitted: dict[str, deque[float]] = {}
        self._ends: dict[str, float] = {}
        self._sweep_at = SWEEP_SIZE

    def __len__(self) -> int:
        """Number of callers that are remembered."""
        return len(self._admitted)

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        now, length = self._clock(), rate.get_expiry()
        admitted = self._admitted.get(subject)
        if admitted is None:
            admitted = self._add_subject(subject, now)
        while admitted and admitted[0] <= now - length:
            admitted.popleft()
        if len(admitted) >= rate.amount:
            return admitted[0] + length - now
        admitted.append(now)
        self._ends[subject] = now + length
        return 0.0

    def _add_subject(self, subject: str, now: float) -> deque[float]:
        """A new subject's window. Drops subjects that are silent, at a constant amortized cost."""
        if len(self._admitted) >= self._sweep_at:
            for silent in [known for known, end in self._ends.items() if end <= now]:
                del self._admitted[silent], self._ends[silent]
            self._sweep_at = max(SWEEP_SIZE, 2 * len(self._admitted))
        return self._admitted.setdefault(subject, deque())


class RedisRateLimiter:
    """Counts in Redis. While Redis is down each replica counts on its own, and retries every REDIS_RETRY_S seconds."""

    def __init__(self, uri: str, local: RateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        self._limiter, self._local, self._clock = MovingWindowRateLimiter(_open_storage(uri)), local, clock
        self._host = urlsplit(uri).hostname
        self._down_until = -math.inf

    async def hit(self, rate: RateLimitItem, subject: str) -> float:
        if self._clock() < self._down_until:
            return await self._local.hit(rate, subject)
        try:
            # Redis's client has its own time limits, and retries within them.
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await self._hit_redis(rate, subject)
        except Exception as error:
            # Sockets, timeouts and Redis's own kinds. None of them is a reason not to answer a caller.
            if self._clock() >= self._down_until:
                _log.error("Redis at %s is unavailable, this replica counts on its own: %r", self._host, error)
            self._down_until = self._clock() + REDIS_RETRY_S
            return await self._local.hit(rate, subject)

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._limiter.storage.bridge.storage.aclose()  # type: ignore[attr-defined]

    async def _hit_redis(self, rate: RateLimitItem, subject: str) -> float:
        if await self._limiter.hit(rate, subject):
            return 0.0
        stats = await self._limiter.get_window_stats(rate, subject)
        return max(1e-3, stats.reset_time - time.time())


def open_rate_limiter(uri: str) -> RateLimiter:
    """Open the limiter behind RAYLOOP_RATE_STORE; an empty URI counts in this process. Raises SettingsError."""
    return RedisRateLimiter(uri, LocalRateLimiter()) if uri else LocalRateLimiter()


async def enforce_rate(limiter: RateLimiter, rate: str, subject: str) -> None:
    """Count a request.

    Raises:
        RequestError: 429 with ``Retry-After``, when the caller has used up its limit.
    """
    wait_s = await limiter.hit(parse_rate(rate), subject)
    if wait_s > 0.0:
        seconds = max(1, math.ceil(wait_s))
        headers = {"retry-after": str(seconds)}
        raise RequestError("request.rate_limited", field="authorization", headers=headers, rate=rate, wait_s=seconds)


@lru_cache(maxsize=1024)
def parse_rate(text: str) -> RateLimitItem:
    """Parse a limit such as ``100/minute`` or ``20 per 10 second``. Raises SettingsError."""
    try:
        rate = parse(text)
    except ValueError as error:
        raise SettingsError("settings.invalid_rate", rate=text) from error
    if not 1 <= rate.amount <= MAX_REQUESTS_PER_WINDOW:
        raise SettingsError("settings.rate_out_of_range", rate=text, amount=rate.amount, limit=MAX_REQUESTS_PER_WINDOW)
    return rate


def _open_storage(uri: str) -> Any:
    if not uri.startswith("redis"):
        raise SettingsError("settings.invalid_rate_store", reason="its scheme is not redis")
    try:
        return storage_from_string(f"async+{uri}", implementation="redispy")
    except (ConfigurationError, ValueError) as error:
        raise SettingsError("settings.invalid_rate_store", reason=hide_password(str(error))) from error
