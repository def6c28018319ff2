"""Requests that wait at the same time are worked on together. Pure asyncio, no Ray.

There is no timer: a lone request goes at once. While a batch is worked on, others arrive; they are the next batch. So
batches grow with the load, and the fixed cost of a pass through features and model is shared by those who wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Requests whose bytes have arrived need a few turns of the loop, from socket to handler, to get here.
_TURNS = 2


class Batcher(Generic[Item, Result]):
    """Deals single items out to ``run`` in batches.

    ``run`` gives a result, or an exception to be raised, for each item in order. A batch holds items of at most
    ``limit`` by ``size``, or one that is larger. No more than ``at_once`` batches are under way; the rest wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        size: Callable[[Item], int],
        limit: int,
        at_once: int = 1_000_000,
    ) -> None:
        self._run = run
        self._size = size
        self._limit = limit
        self._at_once = at_once
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._turns_left = 0
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Result:
        """The result of ``item``. Raises what ``run`` gave or raised for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, done))
        if not self._turns_left:
            self._turns_left = _TURNS
            loop.call_soon(self._turn)
        return await done

    def _turn(self) -> None:
        self._turns_left -= 1
        if self._turns_left:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._running) < self._at_once and (batch := self._next()):
            task = loop.create_task(self._work(batch))
            # The loop itself holds no more than a weak reference to a task.
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._turns_left:
            self._start()

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting:
            item, done = self._waiting[0]
            # Who asked may have gone away while the item waited.
            if not done.done():
                size += self._size(item)
                if batch and size > self._limit:
                    break
                batch.append((item, done))
            self._waiting.popleft()
        return batch

    async def _work(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():
                continue
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)
