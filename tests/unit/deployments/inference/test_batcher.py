"""Requests that wait together share a batch, and each gets its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference.batcher import Batcher


class Doubler:
    """Doubles numbers, refuses negative ones, and remembers its batches."""

    def __init__(self, limit: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.batcher = Batcher(self.run, lambda item: abs(item), limit)

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


async def settle() -> None:
    """Let the loop run until everything that can start has started."""
    for _ in range(10):
        await asyncio.sleep(0)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40), st.integers(1, 60))
def test_batcher_returns_each_result_in_batches_within_the_limit(items: list[int], limit: int) -> None:
    work = Doubler(limit)

    async def call() -> list[int | BaseException]:
        return await asyncio.gather(*(work.batcher(item) for item in items), return_exceptions=True)

    answers = asyncio.run(call())
    for item, answer in zip(items, answers, strict=True):
        assert str(answer) == (str(item) if item < 0 else str(2 * item))
    assert [item for batch in work.batches for item in batch] == items
    assert all(len(batch) == 1 or sum(map(abs, batch)) <= limit for batch in work.batches)


def test_batcher_batches_waiting_items_and_starts_a_lone_one_at_once() -> None:
    work = Doubler()

    async def call() -> None:
        await asyncio.gather(*(work.batcher(item) for item in (1, 2, 3)))
        await work.batcher(4)

    asyncio.run(call())
    assert work.batches == [[1, 2, 3], [4]]


def test_batcher_when_a_batch_fails_fails_its_items_only() -> None:
    async def run(items: Sequence[str]) -> list[str | Exception]:
        if "bomb" in items:
            raise RuntimeError("broken")
        return list(items)

    async def call() -> None:
        batcher = Batcher(run, len, 100)
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.gather(batcher("bomb"), batcher("bystander"))
        assert await batcher("later") == "later"

    asyncio.run(call())


def test_batcher_when_a_caller_cancels_serves_the_others() -> None:
    work = Doubler()

    async def call() -> None:
        gone = asyncio.create_task(work.batcher(1))
        stays = asyncio.create_task(work.batcher(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 4
        assert gone.cancelled() or gone.cancelling()

    asyncio.run(call())


def test_batcher_bounds_concurrent_batches() -> None:
    async def scenario() -> tuple[list[int], int]:
        gate, running, most = asyncio.Event(), 0, 0

        async def run(items: Sequence[int]) -> list[int]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            return [item * 2 for item in items]

        batcher: Batcher[int, int] = Batcher(run, lambda item: 1, 1, max_concurrent=2)
        calls = [asyncio.ensure_future(batcher(i)) for i in range(7)]
        await settle()
        gate.set()
        return await asyncio.gather(*calls), most

    results, most = asyncio.run(scenario())
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert most == 2


def test_batcher_skips_items_cancelled_while_waiting() -> None:
    async def scenario() -> list[int]:
        gate, processed = asyncio.Event(), []

        async def run(items: Sequence[int]) -> list[int]:
            processed.extend(items)
            await gate.wait()
            return list(items)

        batcher: Batcher[int, int] = Batcher(run, lambda item: 1, 1, max_concurrent=1)
        first, gone, last = (asyncio.ensure_future(batcher(i)) for i in range(3))
        await settle()
        gone.cancel()
        gate.set()
        assert await first == 0
        assert await last == 2
        return processed

    assert asyncio.run(scenario()) == [0, 2]
