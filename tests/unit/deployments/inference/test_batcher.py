"""Requests that wait together are worked on together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.inference.batcher import Batcher


class Doubled:
    """Doubles numbers, refuses negative ones, and remembers its batches."""

    def __init__(self, limit: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.batcher = Batcher(self.run, lambda item: abs(item), limit)

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


async def settled() -> None:
    """Let the loop turn until all that can start has started."""
    for _ in range(10):
        await asyncio.sleep(0)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40), st.integers(1, 60))
def test_each_gets_its_own_answer_in_batches_within_the_limit(items: list[int], limit: int) -> None:
    work = Doubled(limit)

    async def ask() -> list[int | BaseException]:
        return await asyncio.gather(*(work.batcher(item) for item in items), return_exceptions=True)

    answers = asyncio.run(ask())
    for item, answer in zip(items, answers, strict=True):
        assert str(answer) == (str(item) if item < 0 else str(2 * item))
    assert [item for batch in work.batches for item in batch] == items
    assert all(len(batch) == 1 or sum(map(abs, batch)) <= limit for batch in work.batches)


def test_those_who_wait_together_share_a_batch_and_a_lone_one_does_not_wait() -> None:
    work = Doubled()

    async def ask() -> None:
        await asyncio.gather(*(work.batcher(item) for item in (1, 2, 3)))
        await work.batcher(4)

    asyncio.run(ask())
    assert work.batches == [[1, 2, 3], [4]]


def test_a_batch_that_breaks_fails_all_of_it_and_the_next_one_goes_on() -> None:
    async def run(items: Sequence[str]) -> list[str | Exception]:
        if "bomb" in items:
            raise RuntimeError("broken")
        return list(items)

    async def ask() -> None:
        batcher = Batcher(run, len, 100)
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.gather(batcher("bomb"), batcher("bystander"))
        assert await batcher("later") == "later"

    asyncio.run(ask())


def test_one_who_goes_away_does_not_disturb_the_others() -> None:
    work = Doubled()

    async def ask() -> None:
        gone = asyncio.create_task(work.batcher(1))
        stays = asyncio.create_task(work.batcher(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 4
        assert gone.cancelled() or gone.cancelling()

    asyncio.run(ask())


def test_no_more_batches_at_once_than_allowed() -> None:
    async def scenario() -> tuple[list[int], int]:
        gate, running, most = asyncio.Event(), 0, 0

        async def run(items: Sequence[int]) -> list[int]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            return [item * 2 for item in items]

        batcher: Batcher[int, int] = Batcher(run, lambda item: 1, 1, at_once=2)
        asked = [asyncio.ensure_future(batcher(i)) for i in range(7)]
        await settled()
        gate.set()
        return await asyncio.gather(*asked), most

    results, most = asyncio.run(scenario())
    assert results == [0, 2, 4, 6, 8, 10, 12]
    assert most == 2


def test_who_went_away_while_waiting_is_not_worked_for() -> None:
    async def scenario() -> list[int]:
        gate, seen = asyncio.Event(), []

        async def run(items: Sequence[int]) -> list[int]:
            seen.extend(items)
            await gate.wait()
            return list(items)

        batcher: Batcher[int, int] = Batcher(run, lambda item: 1, 1, at_once=1)
        first, gone, last = (asyncio.ensure_future(batcher(i)) for i in range(3))
        await settled()
        gone.cancel()
        gate.set()
        assert await first == 0
        assert await last == 2
        return seen

    assert asyncio.run(scenario()) == [0, 2]
