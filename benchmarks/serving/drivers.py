"""Connections, and the two ways to drive them.

closed   each connection sends its next request when the last response arrives: the server's throughput
open     requests leave at random times (Poisson), drawn in advance, independent of the server. Latency counts
         from the time a request was meant to leave, so that a stall counts for every request due meanwhile
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import Protocol, cast

from benchmarks.serving.http import Response, parse_response
from benchmarks.serving.plan import LoadPlan, Report, arrivals, quantile

DRAIN_S = 5.0
"""Seconds to wait for the last responses."""
_RECONNECT_S = 0.05
_OK = 200


class Driver(Protocol):
    """Decides what a connection does next."""

    def ready(self, connection: Connection) -> None: ...
    def answered(self, connection: Connection, response: Response) -> None: ...
    def failed(self, connection: Connection, what: str) -> None: ...


class Connection(asyncio.Protocol):
    """A connection with at most one request under way, opened again when the server closes it."""

    def __init__(self, driver: Driver, port: int) -> None:
        self._driver, self._port = driver, port
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.busy = False
        self.open = False
        self.meant = 0.0

    async def connect(self) -> None:
        """Connect, then call the driver's ``ready``."""
        loop = asyncio.get_running_loop()
        while not self.open:
            try:
                await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            except OSError:
                self._driver.failed(self, "no connection")
                await asyncio.sleep(_RECONNECT_S)

    def send(self, request: bytes, meant: float) -> None:
        """Send; ``meant`` is when the request was due."""
        assert self._transport is not None
        self.busy, self.meant = True, meant
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.open, self._buffer = cast(asyncio.Transport, transport), True, b""
        self._driver.ready(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        response = parse_response(self._buffer)
        if response is not None:
            self._buffer, self.busy = b"", False
            if response.header(b"connection") == b"close":
                # The server accepts no more requests on this connection; connection_lost opens another.
                self.open = False
                self.close()
            self._driver.answered(self, response)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self.busy:
            self.busy = False
            self._driver.failed(self, "connection lost")
        self._again = asyncio.ensure_future(self.connect())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Load:
    """What both kinds share: the clock, the counts and the end."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent = 0
        self._total = 0
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._failures: Counter[str] = Counter()
        self._header = plan.header.encode()
        self._counts: Counter[bytes] = Counter()
        self._last: dict[bytes, float] = {}
        self.connections = [Connection(self, plan.port) for _ in range(plan.connections)]

    async def run(self) -> Report:
        """Connect, run the load, wait for the last responses."""
        self.begin = time.monotonic() + self.plan.warm_up_s
        self.end = self.begin + self.plan.seconds
        connecting = asyncio.gather(*(connection.connect() for connection in self.connections))
        await asyncio.wait([self.over], timeout=self.end + DRAIN_S - time.monotonic())
        connecting.cancel()
        return self.report()

    def ready(self, connection: Connection) -> None:
        raise NotImplementedError

    def answered(self, connection: Connection, response: Response) -> None:
        now = time.monotonic()
        if response.status != _OK:
            self.failed(connection, f"status {response.status}")
        else:
            self._count(connection, response, now)
        self.next(connection, now)

    def failed(self, connection: Connection, what: str) -> None:
        self._failures[what] += 1

    def next(self, connection: Connection, now: float) -> None:
        raise NotImplementedError

    def unanswered(self, now: float) -> list[float]:
        """Seconds that the unanswered requests have waited so far."""
        return []

    def report(self) -> Report:
        now = time.monotonic()
        waited = self.unanswered(now)
        if waited:
            self._failures["no answer"] += len(waited)
        latencies = sorted([*self._latencies, *waited])
        answered = len(self._latencies)
        return Report(
            answered=answered,
            per_second=answered / self.plan.seconds,
            total=self._total,
            failures=dict(self._failures),
            p50_ms=quantile(latencies, 0.5) * 1e3,
            p99_ms=quantile(latencies, 0.99) * 1e3,
            late_ms=quantile(sorted(self._late), 0.99) * 1e3,
            by_header={value.decode(): (count, self._last[value]) for value, count in self._counts.items()},
        )

    def take(self) -> bytes:
        """The next request; all connections share one round through them."""
        request = self.plan.requests[self._sent % len(self.plan.requests)]
        self._sent += 1
        return request

    def _count(self, connection: Connection, response: Response, now: float) -> None:
        self._total += 1
        if self._total == 1:
            print("started", flush=True)
        if self.measures(connection.meant, now):
            self._latencies.append(now - connection.meant)
        if self._header:
            value = response.header(self._header)
            self._counts[value] += 1
            self._last[value] = now

    def measures(self, meant: float, now: float) -> bool:
        """Whether a response counts."""
        raise NotImplementedError


class Closed(_Load):
    """Each connection always has one request in flight."""

    def ready(self, connection: Connection) -> None:
        self.next(connection, time.monotonic())

    def next(self, connection: Connection, now: float) -> None:
        if now < self.end:
            if connection.open:
                connection.send(self.take(), now)
        elif not any(other.busy for other in self.connections) and not self.over.done():
            self.over.set_result(None)

    def measures(self, meant: float, now: float) -> bool:
        return self.begin <= now < self.end


class Open(_Load):
    """Send requests at the pre-drawn times, or as soon after as a connection is free."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._due = deque(arrivals(plan.rate, plan.warm_up_s + plan.seconds, plan.seed))

    async def run(self) -> Report:
        start = time.monotonic()
        self._start = start
        self._schedule()
        return await super().run()

    def ready(self, connection: Connection) -> None:
        self._idle.append(connection)
        self._send()

    def next(self, connection: Connection, now: float) -> None:
        if connection.open:
            self._idle.append(connection)
        self._send()
        nothing_left = not self._due and not self._waiting and not any(c.busy for c in self.connections)
        if nothing_left and not self.over.done():
            self.over.set_result(None)

    def measures(self, meant: float, now: float) -> bool:
        return meant >= self.begin

    def unanswered(self, now: float) -> list[float]:
        meant = [*self._waiting, *(c.meant for c in self.connections if c.busy)]
        return [now - one for one in meant]

    def _schedule(self) -> None:
        if self._due:
            asyncio.get_running_loop().call_at(self._start + self._due[0], self._arrive)

    def _arrive(self) -> None:
        meant = self._start + self._due.popleft()
        if meant >= self.begin:
            self._late.append(time.monotonic() - meant)
        self._waiting.append(meant)
        self._schedule()
        self._send()

    def _send(self) -> None:
        while self._waiting and self._idle:
            connection = self._idle.popleft()
            # One that was closed and opened again while idle is in the queue twice.
            if connection.busy or not connection.open:
                continue
            meant = self._waiting.popleft()
            connection.send(self.take(), meant)
