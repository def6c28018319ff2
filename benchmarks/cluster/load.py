"""A steady load through a door, and the account of its requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.cluster.replicas import MODEL, Loop
from cluster.door.moves import CLUSTER_HEADER

_DEADLINE_S = 120.0


def wait_until(holds: Callable[[], object], what: str, deadline_s: float = _DEADLINE_S) -> None:
    """Wait for a condition. Raises TimeoutError."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.05)


class Outcome(NamedTuple):
    """A request: when it was due, sent and ended, seconds of the monotonic clock; its status, or what failed."""

    due: float
    sent: float
    ended: float
    status: str
    key: str = ""
    cluster: str = ""
    """Which cluster answered, as the door says while the model moves."""


class SteadyLoad:
    """Requests at a steady rate over connections that stay open, and every ``long_every``-th takes ``long_s``.

    Every ``connect_every``-th opens a connection of its own. With ``keys``, that many routing keys take turns.
    """

    def __init__(
        self,
        loop: Loop,
        port: int,
        rate: float,
        *,
        long_every: int = 0,
        long_s: float = 0.0,
        ssl: Any = None,
        connect_every: int = 0,
        keys: int = 0,
    ) -> None:
        self._port, self._rate, self._long_every, self._long_s, self._ssl = port, rate, long_every, long_s, ssl
        self._loop, self._connect_every, self._keys, self._over = loop, connect_every, keys, False
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> SteadyLoad:
        self._done = asyncio.run_coroutine_threadsafe(self._run(), self._loop.loop)
        return self

    def __exit__(self, *unused: object) -> None:
        self._over = True
        self._done.result(120.0)

    @property
    def failed(self) -> list[Outcome]:
        """Those without a 200."""
        return [outcome for outcome in self.outcomes if outcome.status != "200"]

    @property
    def late_s(self) -> float:
        """How late the latest request left: more than the rest of a figure when the machine is busy."""
        return max((outcome.sent - outcome.due for outcome in self.outcomes), default=0.0)

    @property
    def longest_gap_s(self) -> float:
        """The longest time in which no request ended well."""
        ends = sorted(outcome.ended for outcome in self.outcomes if outcome.status == "200")
        return max((b - a for a, b in itertools.pairwise(ends)), default=float("inf"))

    def await_answers(self, count: int) -> None:
        """Until that many more have been answered."""
        before = len(self.outcomes)
        wait_until(lambda: len(self.outcomes) >= before + count, f"{count} more answers")

    async def _run(self) -> None:
        tasks, started, number = set(), time.monotonic(), 0
        while not self._over:
            due = started + number / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            is_long = self._long_every and number % self._long_every == 0
            alone = bool(self._connect_every) and number % self._connect_every == 0
            key = f"k{number % self._keys}" if self._keys else ""
            task = asyncio.create_task(self._request(due, self._long_s if is_long else 0.0, alone, key))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()

    async def _request(self, due: float, sleep_s: float, alone: bool, key: str) -> None:
        sent, cluster = time.monotonic(), ""
        path = f"/v2/models/{MODEL}/sleep/{sleep_s}" if sleep_s else f"/v2/models/{MODEL}/infer"
        try:
            head = await asyncio.wait_for(self._exchange(path, alone, key), 60.0)
            status, cluster = head.split()[1], _header(head, CLUSTER_HEADER)
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        self.outcomes.append(Outcome(due, sent, time.monotonic(), status, key, cluster))

    async def _exchange(self, path: str, alone: bool, key: str) -> str:
        """The head of the answer, in lower case."""
        while self._idle and not alone:
            reader, writer = self._idle.pop()
            # As clients do: a connection that the other side has closed is not used again.
            if not reader.at_eof() and reader.exception() is None:
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._ssl)
        try:
            named = f"x-rayloop-key: {key}\r\n" if key else ""
            writer.write(f"POST {path} HTTP/1.1\r\nhost: door\r\n{named}content-length: 2\r\n\r\n{{}}".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(_header(head, "content-length"))
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if "connection: close" in head or alone:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head


def _header(head: str, name: str) -> str:
    return head.partition(f"\r\n{name}:")[2].split("\r\n", 1)[0].strip()
