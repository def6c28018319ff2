"""Calls with a time limit, and databases with one."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy.engine import make_url

from cluster.errors import CallTimeout
from cluster.limits import in_thread, limit_database, within
from tests.factories.errors import raises


def test_late_call_ends_with_an_error_and_leaves_threads_for_others() -> None:
    release = threading.Event()

    async def run() -> None:
        late = [in_thread(0.05, "the store", release.wait) for _ in range(50)]
        errors = await asyncio.gather(*late, return_exceptions=True)
        assert {type(error) for error in errors} == {CallTimeout}
        assert await in_thread(20.0, "the store", divmod, 7, 2) == (3, 1)
        with raises(CallTimeout, "cluster.call_timed_out", what="the store", limit_s=0.05):
            raise errors[0]  # type: ignore[misc]

    try:
        asyncio.run(run())
    finally:
        release.set()


def test_error_of_a_call_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(20.0, "the store", divmod, 7, 0))


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_postgresql_gets_limits_and_keeps_its_own(driver: str) -> None:
    url = make_url(limit_database(f"{driver}://me:se%2Fcret@host:5432/db?connect_timeout=2&sslmode=require", 4))
    assert (url.password, url.host, url.query["sslmode"]) == ("se/cret", "host", "require")
    assert (url.query["connect_timeout"], url.query["tcp_user_timeout"]) == ("2", "4000")
    assert url.query["options"] == "-c statement_timeout=4000 -c idle_in_transaction_session_timeout=8000"


@pytest.mark.parametrize("uri", ["sqlite:////tmp/a.db", "mysql://host/db", "postgresql+pg8000://host/db"])
def test_other_databases_are_left_as_they_are(uri: str) -> None:
    assert limit_database(uri) == uri


def test_cancellation_that_comes_as_the_call_ends_is_not_lost() -> None:
    async def run() -> None:
        call: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(within(5.0, "x", call))
        await asyncio.sleep(0.01)
        call.set_result(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
