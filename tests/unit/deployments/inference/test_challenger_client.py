"""A champion's line to a challenger, over a real socket; Serve's handle is played by an object with the same calls."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import RayloopError
from deployments.inference.challenger_client import ChallengerClient, ChallengerServer
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult

HERE, ELSEWHERE = "node-1", "node-2"
ASKED = ScoreRequest(b"rows", [1, 2], 7)


def said(asked: ScoreRequest) -> list[ScoreResult]:
    return [ScoreResult("2", np.full(size, asked.now_us, np.float32), 0.5, None) for size in asked.sizes]


class Response:
    """As what a handle's call gives: awaited, or cancelled."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.cancelled = False

    def __await__(self):
        async def wait() -> Any:
            if self.value is None:
                await asyncio.Event().wait()
            return self.value

        return wait().__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Leads to ``path`` on ``node``, and counts who asked for what."""

    def __init__(self, node: str, path: Path | None = None, answered: Any = None) -> None:
        self.found = 0
        self.responses: list[Response] = []
        self.path = path
        self.address = SimpleNamespace(remote=lambda: self._found(node))
        self.score = SimpleNamespace(remote=lambda *asked: self._scored(answered))

    def _found(self, node: str) -> Response:
        self.found += 1
        return Response((node, str(self.path)))

    def _scored(self, answered: Any) -> Response:
        self.responses.append(Response(answered))
        return self.responses[-1]


def with_listener(
    folder: Path,
    score: Callable[[ScoreRequest], list[ScoreResult]],
    test: Callable[[ChallengerClient, Handle, ChallengerServer], Awaitable[None]],
) -> None:
    async def run() -> None:
        listener = ChallengerServer(folder, score)
        await listener.start()
        handle = Handle(HERE, listener.path)
        line = ChallengerClient(handle, HERE)
        await test(line, handle, listener)
        line.close()
        listener.close()

    asyncio.run(asyncio.wait_for(run(), 10.0))


def numbers(told: list[ScoreResult]) -> list[list[float]]:
    return [s.scores.tolist() for s in told if s.scores is not None]


def test_one_connection_serves_one_question_after_another(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        await line.find()
        for at in range(5):
            assert numbers(await line.ask(ASKED._replace(now_us=at))) == [[at], [at, at]]
        assert handle.found == 1
        assert not handle.responses

    with_listener(tmp_path, said, test)


def test_questions_at_the_same_time_have_connections_of_their_own(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        told = await asyncio.gather(*(line.ask(ASKED._replace(now_us=at)) for at in range(8)))
        assert [numbers(each) for each in told] == [[[at], [at, at]] for at in range(8)]
        assert handle.found == 8

    with_listener(tmp_path, said, test)


def test_what_fails_there_is_raised_here_and_the_line_goes_on(tmp_path: Path) -> None:
    def score(asked: ScoreRequest) -> list[ScoreResult]:
        if asked.now_us == 0:
            raise KeyError("x")
        return said(asked)

    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        with pytest.raises(RayloopError, match="KeyError: 'x'"):
            await line.ask(ASKED._replace(now_us=0))
        assert numbers(await line.ask(ASKED)) == [[7], [7, 7]]

    with_listener(tmp_path, score, test)


def test_the_late_answer_to_a_question_that_was_given_up_is_nobodys(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        await line.find()
        given_up = asyncio.ensure_future(line.ask(ASKED._replace(now_us=1)))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert numbers(await line.ask(ASKED._replace(now_us=2))) == [[2], [2, 2]]
        assert handle.found == 2

    with_listener(tmp_path, said, test)


def test_a_replica_that_is_gone_costs_one_question_and_another_is_found(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, first: ChallengerServer) -> None:
        dead = await asyncio.start_unix_server(lambda reader, writer: writer.close(), tmp_path / "dead.sock")
        alive, handle.path = handle.path, tmp_path / "dead.sock"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.ask(ASKED)
        dead.close()
        handle.path = alive
        assert numbers(await line.ask(ASKED)) == [[7], [7, 7]]

    with_listener(tmp_path, said, test)


def test_a_replica_that_goes_between_two_questions_costs_none(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        gone = asyncio.Event()

        def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            gone.set()

        dead = await asyncio.start_unix_server(close, tmp_path / "dead.sock")
        alive, handle.path = handle.path, tmp_path / "dead.sock"
        await line.find()
        await gone.wait()
        handle.path = alive
        while not line._idle[0].over:
            await asyncio.sleep(0)
        assert numbers(await line.ask(ASKED)) == [[7], [7, 7]]
        dead.close()

    with_listener(tmp_path, said, test)


def test_a_replica_on_another_machine_is_asked_over_serve() -> None:
    async def test() -> None:
        handle = Handle(ELSEWHERE, Path("/nowhere"), said(ASKED))
        assert numbers(await ChallengerClient(handle, HERE).ask(ASKED)) == [[7], [7, 7]]
        assert len(handle.responses) == 1

    asyncio.run(test())


def test_a_question_over_serve_that_is_given_up_is_cancelled_there() -> None:
    async def test() -> None:
        handle = Handle(ELSEWHERE, Path("/nowhere"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ChallengerClient(handle, HERE).ask(ASKED), 0.01)
        assert handle.responses[0].cancelled

        handle.address = handle.score
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ChallengerClient(handle, HERE).find(), 0.01)
        assert handle.responses[1].cancelled

    asyncio.run(test())


def test_a_closed_line_keeps_nothing(tmp_path: Path) -> None:
    async def test(line: ChallengerClient, handle: Handle, listener: ChallengerServer) -> None:
        await line.find()
        under_way = asyncio.ensure_future(line.ask(ASKED))
        await asyncio.sleep(0)
        line.close()
        assert numbers(await under_way) == [[7], [7, 7]]
        await line.ask(ASKED)
        assert handle.found == 2

    with_listener(tmp_path, said, test)


def test_only_this_user_may_enter_the_folder_of_sockets(tmp_path: Path) -> None:
    listener = ChallengerServer(tmp_path / "sockets", said)
    assert listener.path.parent.stat().st_mode & 0o777 == 0o700
