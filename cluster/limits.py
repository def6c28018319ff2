"""Time limits of calls to stores and actors: code that holds a lock never waits for them without limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.engine import make_url

from cluster.errors import CallTimeout

STORE_S = 15.0
"""For a call to the catalog, to MLflow, or to Serve's REST API."""

T = TypeVar("T")


async def within(limit_s: float, what: str, call: Awaitable[T]) -> T:
    """Wait for a call.

    Args:
        limit_s: Seconds to wait.
        what: What is called, for the error.
        call: The call. After the limit it may still take effect.

    Raises:
        CallTimeout: It is late.
    """
    try:
        # `asyncio.wait_for` of Python 3.11 drops a cancellation that comes as the call ends: a loop would never end.
        async with asyncio.timeout(limit_s):
            return await call
    except TimeoutError as error:
        raise CallTimeout("cluster.call_timed_out", what=what, limit_s=limit_s) from error


async def in_thread(limit_s: float, what: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function in a thread of its own.

    A late one runs on: it occupies none of the threads that later calls need, and does not keep the process from exit.

    Args:
        limit_s: Seconds to wait.
        what: What is called, for the error.
        function: The function.
        args: Its arguments.
        options: Its keyword arguments.

    Raises:
        CallTimeout: It is late.
    """
    return await within(limit_s, what, asyncio.wrap_future(start_thread(what, function, *args, **options)))


def start_thread(name: str, function: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
    """Call a function in a thread of its own, which does not keep the process from exiting.

    Returns:
        The future of its result, which cannot be canceled.
    """
    future: Future[T] = Future()
    # A canceled future would refuse the result, which the thread may set at any time.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def limit_database(uri: str, limit_s: int = 10) -> str:
    """Add time limits to the URI of a database, except where it has its own. SQLite waits 5 s for a lock by default.

    Args:
        uri: SQLAlchemy URI.
        limit_s: Seconds for a connection, a statement, and data that the other end does not acknowledge.

    Raises:
        sqlalchemy.exc.ArgumentError: It is no URI.
    """
    url = make_url(uri)
    if url.drivername not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return uri
    # A client that stops in the middle of a transaction must not hold its locks.
    session = {"statement_timeout": limit_s, "idle_in_transaction_session_timeout": 2 * limit_s}
    limits = {
        "connect_timeout": str(limit_s),
        "tcp_user_timeout": str(1000 * limit_s),
        "options": " ".join(f"-c {name}={1000 * seconds}" for name, seconds in session.items()),
    }
    return url.set(query=limits | dict(url.query)).render_as_string(hide_password=False)
