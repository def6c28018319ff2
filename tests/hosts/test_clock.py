"""The wall clock of one host steps for all of its programs at once, and nothing but waits until a time notices."""

from __future__ import annotations

import json
import time

import pytest

from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.certificates import CA, Authority
from tests.hosts.clock_waits import LIMIT_S, STEP_AFTER_S
from tests.hosts.faults import STEP_S
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.process import Process
from tests.hosts.stores import REDIS_PORT, start_postgres, start_redis

pytestmark = pytest.mark.skipif(not clock.available(), reason=f"{clock.COMPILER} is not installed")

WAIT_S = 1.0
LATE_S = 3.0
"""Seconds by which a busy machine may be late."""
TICK = """
import time
while True:
    print(time.time() - time.monotonic(), flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def host(network: Network) -> Host:
    host = network.hosts.get("clock") or network.add("clock", own_clock=True)
    host.step_clock(0)
    return host


def measure(host: Host, wait_s: float, step_s: float) -> dict[str, float | None]:
    """Seconds that each way to wait takes."""
    return dict(json.loads(host.run("python", "-m", "tests.hosts.clock_waits", str(wait_s), str(step_s)).stdout))


def names(took: dict[str, float | None], *, wall: bool) -> list[str]:
    """Ways to wait until a time of the wall clock, or all others. A timerfd is none of those that follow it."""
    return [name for name in took if (name.endswith(" wall") and not name.startswith("timerfd")) == wall]


def last(ticking: Process) -> float:
    """The last line that it has written whole."""
    return float(ticking.output.rpartition("\n")[0].splitlines()[-1])


@pytest.mark.parametrize("step_s", [STEP_S, -STEP_S])
def test_clock_steps_at_once_in_running_and_in_new_programs(step_s: float, host: Host, client: Host) -> None:
    running = host.start("python", "-c", TICK)
    until(lambda: running.output, "the program runs", 20)
    for offset_s in (step_s, 0):
        host.step_clock(offset_s)
        expected = time.time() - time.monotonic() + offset_s
        until(lambda: abs(last(running) - expected) < 1, "the running program's time steps", 5)  # noqa: B023
        assert abs(float(host.run("date", "+%s.%N").stdout) - time.time() - offset_s) < LATE_S
        bare = ("env", "-i", "python3", "-c", "import time; print(time.time())")
        assert abs(float(host.run(*bare).stdout) - time.time() - offset_s) < LATE_S
        assert abs(float(client.run("date", "+%s.%N").stdout) - time.time()) < LATE_S


def test_clock_is_right_again_after_a_boot(host: Host) -> None:
    host.step_clock(STEP_S)
    host.kill()
    host.boot()
    assert abs(float(host.run("date", "+%s.%N").stdout) - time.time()) < LATE_S


@pytest.mark.parametrize("step_s", [STEP_S, 0, -STEP_S])
def test_waits_for_a_duration_keep_it_over_a_step(step_s: float, host: Host) -> None:
    took = measure(host, WAIT_S, step_s)
    assert [name for name in names(took, wall=False) if not WAIT_S * 0.99 < (took[name] or 0) < WAIT_S + LATE_S] == []


@pytest.mark.parametrize("offset_s", [STEP_S, -STEP_S])
def test_waits_until_a_time_take_as_long_on_a_clock_that_is_wrong(offset_s: float, host: Host) -> None:
    host.step_clock(offset_s)
    took = measure(host, WAIT_S, offset_s)
    assert [name for name in took if not WAIT_S * 0.99 < (took[name] or 0) < WAIT_S + LATE_S] == []


def test_waits_until_a_time_end_when_the_clock_steps_past_it(host: Host) -> None:
    took = measure(host, STEP_S - 60, STEP_S)
    assert [name for name in names(took, wall=True) if not STEP_AFTER_S <= (took[name] or 0) < LIMIT_S] == []
    assert [name for name in names(took, wall=False) if took[name] is not None] == []


def test_waits_until_a_time_go_on_when_the_clock_steps_back(host: Host) -> None:
    took = measure(host, WAIT_S, -STEP_S)
    assert [name for name in names(took, wall=True) if took[name] is not None] == []


def test_key_of_redis_lives_until_a_time_of_its_hosts_clock(
    network: Network, authority: Authority, client: Host
) -> None:
    store = start_redis(network.add("clock-redis", own_clock=True), authority)
    command = ("redis-cli", "-h", store.host.name, "-p", str(REDIS_PORT), "--tls", "--cacert", CA)

    def redis(*words: str) -> str:
        return client.run(*command, *words, env={"REDISCLI_AUTH": store.password}).stdout.strip()

    redis("SET", "key", "value", "EX", "600")
    store.host.step_clock(-STEP_S)
    until(lambda: int(redis("TTL", "key")) > STEP_S, "the key lives an hour longer", 10)
    store.host.step_clock(STEP_S)
    until(lambda: redis("GET", "key") == "", "the key is gone", 10)
    redis("SET", "key", "value", "EX", "600")
    assert 590 < int(redis("TTL", "key")) <= 600


def test_now_of_postgres_is_its_hosts(network: Network, authority: Authority, client: Host) -> None:
    store = start_postgres(network.add("clock-postgres", own_clock=True), authority)
    url = f"host={store.host.name} dbname=rayloop user={store.user} sslmode=verify-full sslrootcert={CA}"
    psql = ("psql", url, "-XAtc", "SELECT extract(epoch FROM now())")
    for step_s in (STEP_S, -STEP_S, 0):
        store.host.step_clock(step_s)
        now = client.run(*psql, env={"PGPASSWORD": store.password}).stdout
        assert abs(float(now) - time.time() - step_s) < LATE_S
