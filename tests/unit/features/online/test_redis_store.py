"""A Redis that hangs: a served model's read fails within 100 ms, and no threads or requests pile up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from redis import Redis

from benchmarks.redis_server import redis_server
from cluster.errors import StoreUnavailable
from features.online.store import ProjectStore, open_serving_store, open_store
from tests.factories.errors import raises
from tests.factories.until import until

LIMIT_S = 0.1
PAUSE_S = 0.25


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with redis_server(tmp_path) as address:
        yield address


@contextmanager
def stopped(address: str) -> Iterator[None]:
    process = Redis.from_url(address).info()["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def attempt(store: ProjectStore) -> tuple[float, str]:
    """Seconds of a read, and the code of its error."""
    start = time.monotonic()
    try:
        store.get_many([b"a"])
    except StoreUnavailable as error:
        return time.monotonic() - start, error.code
    return time.monotonic() - start, ""


def test_read_of_a_stopped_redis_fails_in_time_and_recovers(address: str) -> None:
    open_store(address, "shop").put_many({b"a": b"1"})
    store = open_serving_store(address, "shop")
    assert store.get_many([b"a"]) == [b"1"]
    with stopped(address):
        attempts = []
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            attempts.append(attempt(store))
            time.sleep(0.01)
        assert {code for _, code in attempts} == {"store.timeout", "store.paused"}
        # Not the slowest: on a busy machine, a process may wait for a core.
        assert median(seconds for seconds, code in attempts if code == "store.timeout") < LIMIT_S
        assert median(seconds for seconds, code in attempts if code == "store.paused") < 0.001
    until(lambda: attempt(store)[1] == "", "the store answers again", 5)
    assert store.get_many([b"a"]) == [b"1"]


def test_many_reads_of_a_stopped_redis_neither_queue_nor_leave_threads(address: str) -> None:
    store = open_serving_store(address, "shop")
    store.get_many([b"a"])
    threads = threading.active_count()
    with stopped(address):
        with ThreadPoolExecutor(16) as pool:
            start = time.monotonic()
            attempts = list(pool.map(lambda _: attempt(store), range(400)))
            seconds = time.monotonic() - start
        codes = [code for _, code in attempts]
        assert set(codes) == {"store.timeout", "store.paused"}
        assert codes.count("store.timeout") <= 16 * (1 + seconds / PAUSE_S), "all threads at most once in each pause"
    assert threading.active_count() == threads


def test_read_after_redis_closed_the_connection_connects_again(address: str) -> None:
    store = open_serving_store(address, "shop")
    store.get_many([b"a"])
    Redis.from_url(address).client_kill_filter(_type="normal", skipme=True)
    assert store.get_many([b"a"]) == [None]


def test_write_that_redis_refuses_is_named(address: str) -> None:
    Redis.from_url(address).config_set("maxmemory", 1)
    with raises(StoreUnavailable, "store.failed", address="127.0.0.1"):
        open_store(address, "shop").put_many({b"a": b"1"})
