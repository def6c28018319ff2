"""A champion's way to a challenger: a Unix socket on the same machine, Serve's handle to another one.

A call over Serve's handle costs two milliseconds of two cores, ten times as much as an answer. The handle remains the
way to find a replica, which says where it listens, and to reach one on another machine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from deployments.inference import challenger_protocol
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class ChallengerAddress(NamedTuple):
    """Where a replica listens: Ray's id of its node, and the path of its socket."""

    node: str
    path: str


class ChallengerClient:
    """Sends score requests to a challenger.

    Args:
        handle: Serve's handle to the challenger's deployment.
        node: Ray's id of the node that the champion runs on.
    """

    def __init__(self, handle: DeploymentHandle[Any], node: str) -> None:
        self._handle: Any = handle
        self._node = node
        self._idle: list[_ChallengerConnection] = []
        self._closed = False

    async def connect(self) -> None:
        """Open a connection ahead of the first request. Raises what Serve raises."""
        if (connection := await self._connect()) is not None:
            self._release(connection)

    async def score(self, request: ScoreRequest) -> list[ScoreResult]:
        """Score requests with the challenger. Raises any failure of the call; may be canceled."""
        connection = self._take_idle() or await self._connect()
        if connection is None:
            return await _await_response(self._handle.score.remote(*request))
        try:
            answer = await connection.call(challenger_protocol.encode_request(request))
            results = challenger_protocol.decode_results(answer)
        except BaseException:
            # After any failure, the next message on this connection may be the response to this request.
            connection.close()
            raise
        self._release(connection)
        return results

    async def explain(self, request: ScoreRequest) -> list[str]:
        """Explain one request over Serve's handle: explanations are rare, and take longer than the call.

        Returns:
            The explanation of each row, as JSON; empty if the challenger cannot explain it.
        """
        return await _await_response(self._handle.explain.remote(*request))

    def close(self) -> None:
        """Close all connections, those in use after their response."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> _ChallengerConnection | None:
        """An idle connection, if one is open; closes those whose replica is gone."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
            connection.close()
        return None

    def _release(self, connection: _ChallengerConnection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> _ChallengerConnection | None:
        """A connection to one of the replicas; None when Serve chooses one on another machine."""
        address = ChallengerAddress(*await _await_response(self._handle.address.remote()))
        if address.node != self._node:
            return None
        return _ChallengerConnection(*await asyncio.open_unix_connection(address.path))


class _ChallengerConnection(NamedTuple):
    """Carries one call at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def call(self, message: bytes) -> bytes:
        self.writer.write(message)
        return await challenger_protocol.read_frame(self.reader)

    @property
    def closed(self) -> bool:
        """Whether the other side has closed it."""
        return self.reader.at_eof() or self.writer.is_closing()

    def close(self) -> None:
        self.writer.close()


async def _await_response(response: Any) -> Any:
    """The result of a call over Serve's handle; canceling the wait cancels the call."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
