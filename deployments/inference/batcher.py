"""Adaptive batching without a timer. Pure asyncio, no Ray.

A lone request starts immediately. Requests that arrive while a batch runs form the next batch. So batches grow with the
load, and the requests of a batch share the fixed cost of a pass through features and model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Requests whose bytes have arrived take a few iterations of the event loop, from socket to handler, to get here.
_LOOP_ITERATIONS = 2


class Batcher(Generic[Item, Result]):
    """Runs single items in batches.

    Args:
        run: Returns a result, or an exception to raise, for each item in order.
        size: Size of an item.
        limit: Largest total size of a batch; a larger item forms its own batch.
        max_concurrent: Most batches in progress; further items wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        size: Callable[[Item], int],
        limit: int,
        max_concurrent: int = 1_000_000,
    ) -> None:
        self._run = run
        self._size = size
        self._limit = limit
        self._max_concurrent = max_concurrent
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._iterations_left = 0
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Result:
        """Return the result of ``item``, or raise the exception that ``run`` returned or raised for it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._iterations_left:
            self._iterations_left = _LOOP_ITERATIONS
            loop.call_soon(self._count_down)
        return await future

    def _count_down(self) -> None:
        self._iterations_left -= 1
        if self._iterations_left:
            asyncio.get_running_loop().call_soon(self._count_down)
        else:
            self._start_batches()

    def _start_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._running) < self._max_concurrent and (batch := self._next_batch()):
            task = loop.create_task(self._run_batch(batch))
            # The loop itself holds only a weak reference to a task.
            self._running.add(task)
            task.add_done_callback(self._on_batch_end)

    def _on_batch_end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._iterations_left:
            self._start_batches()

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting:
            item, future = self._waiting[0]
            # The caller may have canceled while the item waited.
            if not future.done():
                size += self._size(item)
                if batch and size > self._limit:
                    break
                batch.append((item, future))
            self._waiting.popleft()
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
