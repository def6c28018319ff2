"""A champion's client of a challenger, over a real socket; a fake with the same calls replaces Serve's handle."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import RayloopError
from deployments.inference.challenger_client import ChallengerClient
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult
from deployments.inference.challenger_server import ChallengerServer
from tests.factories.errors import raises

HERE, ELSEWHERE = "node-1", "node-2"
REQUEST = ScoreRequest(b"rows", [1, 2], 7)


def double_scores(request: ScoreRequest) -> list[ScoreResult]:
    return [ScoreResult("2", np.full(size, request.now_us, np.float32), 0.5, None) for size in request.sizes]


class Response:
    """The response of a handle's call, which can be awaited or canceled."""

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
    """Leads to ``path`` on ``node``, and counts the calls."""

    def __init__(self, node: str, path: Path | None = None, result: Any = None) -> None:
        self.lookups = 0
        self.responses: list[Response] = []
        self.path = path
        self.address = SimpleNamespace(remote=lambda: self._look_up(node))
        self.score = SimpleNamespace(remote=lambda *call: self._respond(result))

    def _look_up(self, node: str) -> Response:
        self.lookups += 1
        return Response((node, str(self.path)))

    def _respond(self, result: Any) -> Response:
        self.responses.append(Response(result))
        return self.responses[-1]


def with_server(
    folder: Path,
    score: Callable[[ScoreRequest], list[ScoreResult]],
    test: Callable[[ChallengerClient, Handle, ChallengerServer], Awaitable[None]],
) -> None:
    async def answer(request: ScoreRequest) -> list[ScoreResult]:
        return score(request)

    async def run() -> None:
        server = ChallengerServer(folder, answer)
        await server.start()
        handle = Handle(HERE, server.path)
        client = ChallengerClient(handle, HERE)
        await test(client, handle, server)
        client.close()
        server.close()

    asyncio.run(asyncio.wait_for(run(), 10.0))


def numbers(results: list[ScoreResult]) -> list[list[float]]:
    return [s.scores.tolist() for s in results if s.scores is not None]


def test_score_several_times_reuses_the_connection(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        await client.connect()
        for at in range(5):
            assert numbers(await client.score(REQUEST._replace(now_us=at))) == [[at], [at, at]]
        assert handle.lookups == 1
        assert not handle.responses

    with_server(tmp_path, double_scores, test)


def test_score_concurrently_uses_separate_connections(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        results = await asyncio.gather(*(client.score(REQUEST._replace(now_us=at)) for at in range(8)))
        assert [numbers(each) for each in results] == [[[at], [at, at]] for at in range(8)]
        assert handle.lookups == 8

    with_server(tmp_path, double_scores, test)


def test_score_when_the_challenger_fails_raises_and_recovers(tmp_path: Path) -> None:
    def score(request: ScoreRequest) -> list[ScoreResult]:
        if request.now_us == 0:
            raise KeyError("x")
        return double_scores(request)

    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        with raises(RayloopError, "rayloop.challenger_failed", error="KeyError: 'x'"):
            await client.score(REQUEST._replace(now_us=0))
        assert numbers(await client.score(REQUEST)) == [[7], [7, 7]]

    with_server(tmp_path, score, test)


def test_score_after_a_cancelled_call_ignores_its_late_result(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        await client.connect()
        abandoned = asyncio.ensure_future(client.score(REQUEST._replace(now_us=1)))
        await asyncio.sleep(0)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned
        assert numbers(await client.score(REQUEST._replace(now_us=2))) == [[2], [2, 2]]
        assert handle.lookups == 2

    with_server(tmp_path, double_scores, test)


def test_score_after_a_replica_dies_finds_another(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, first: ChallengerServer) -> None:
        dead = await asyncio.start_unix_server(lambda reader, writer: writer.close(), tmp_path / "dead.sock")
        alive, handle.path = handle.path, tmp_path / "dead.sock"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.score(REQUEST)
        dead.close()
        handle.path = alive
        assert numbers(await client.score(REQUEST)) == [[7], [7, 7]]

    with_server(tmp_path, double_scores, test)


def test_score_after_an_idle_connection_closes_opens_another(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        gone = asyncio.Event()

        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            await writer.wait_closed()
            gone.set()

        dead = await asyncio.start_unix_server(close, tmp_path / "dead.sock")
        alive, handle.path = handle.path, tmp_path / "dead.sock"
        await client.connect()
        await gone.wait()
        handle.path = alive
        # The socket is closed, so the event loop's next passes notice it.
        for _ in range(10):
            await asyncio.sleep(0)
        assert numbers(await client.score(REQUEST)) == [[7], [7, 7]]
        dead.close()

    with_server(tmp_path, double_scores, test)


def test_score_of_a_replica_on_another_machine_goes_over_serve() -> None:
    async def test() -> None:
        handle = Handle(ELSEWHERE, Path("/nowhere"), double_scores(REQUEST))
        assert numbers(await ChallengerClient(handle, HERE).score(REQUEST)) == [[7], [7, 7]]
        assert len(handle.responses) == 1

    asyncio.run(test())


def test_score_over_serve_when_cancelled_cancels_the_call() -> None:
    async def test() -> None:
        handle = Handle(ELSEWHERE, Path("/nowhere"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ChallengerClient(handle, HERE).score(REQUEST), 0.01)
        assert handle.responses[0].cancelled

        handle.address = handle.score
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ChallengerClient(handle, HERE).connect(), 0.01)
        assert handle.responses[1].cancelled

    asyncio.run(test())


def test_score_after_close_keeps_no_connection(tmp_path: Path) -> None:
    async def test(client: ChallengerClient, handle: Handle, server: ChallengerServer) -> None:
        await client.connect()
        in_progress = asyncio.ensure_future(client.score(REQUEST))
        await asyncio.sleep(0)
        client.close()
        assert numbers(await in_progress) == [[7], [7, 7]]
        await client.score(REQUEST)
        assert handle.lookups == 2

    with_server(tmp_path, double_scores, test)


def test_server_socket_folder_is_private(tmp_path: Path) -> None:
    async def answer(request: ScoreRequest) -> list[ScoreResult]:
        return double_scores(request)

    server = ChallengerServer(tmp_path / "sockets", answer)
    assert server.path.parent.stat().st_mode & 0o777 == 0o700
