"""A challenger on the champion's own machine is asked over a Unix socket; one elsewhere, over Serve's handle.

Serve's handle costs two milliseconds of two cores for each call, ten times as much as an answer. It stays the way to find a
replica, which is asked where it listens, and to reach one on another machine. A socket lies in a folder that only this
user may enter: who cannot reach the handle cannot reach it either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from ray.serve.handle import DeploymentHandle

from deployments.inference.challenger_protocol import (
    LENGTH,
    ScoreRequest,
    ScoreResult,
    decode_request,
    decode_results,
    encode_error,
    encode_request,
    encode_results,
)

_log = logging.getLogger(__name__)


class ChallengerAddress(NamedTuple):
    """Where a replica listens: Ray's id of its node, and the path of its socket."""

    node: str
    path: str


class ChallengerServer:
    """Answers questions over a Unix socket in ``folder``, one at a time on each connection."""

    def __init__(self, folder: Path, score: Callable[[ScoreRequest], Sequence[ScoreResult]]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"{uuid4().hex[:16]}.sock"
        self._score = score
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, until ``close``. Listens already: nothing happens."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)

    def close(self) -> None:
        """Take no connection any more."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(self._answer(await _read(reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The champion's replica has closed the connection, or is gone.
            writer.close()

    def _answer(self, message: bytes) -> bytes:
        try:
            return encode_results(self._score(decode_request(message)))
        except Exception as error:
            _log.exception("a question failed")
            return encode_error(f"{type(error).__name__}: {error}")


class ChallengerClient:
    """A champion's way to a challenger: ``handle`` finds its replicas, ``node`` is where the champion runs."""

    def __init__(self, handle: DeploymentHandle, node: str) -> None:
        self._handle: Any = handle
        self._node = node
        self._idle: list[_Connection] = []
        self._closed = False

    async def find(self) -> None:
        """Have a connection at hand, so that the first request does not wait for one. Raises what Serve raises."""
        if (connection := await self._connect()) is not None:
            self._keep(connection)

    async def ask(self, asked: ScoreRequest) -> list[ScoreResult]:
        """What the challenger says of each request. Raises what went wrong; may be cancelled."""
        connection = self._taken() or await self._connect()
        if connection is None:
            said: list[ScoreResult] = await _answered(self._handle.score.remote(*asked))
            return said
        try:
            said = decode_results(await connection.ask(encode_request(asked)))
        except BaseException:
            # Whatever it was, what comes next on this connection may be the answer to this question.
            connection.close()
            raise
        self._keep(connection)
        return said

    def close(self) -> None:
        """Let go of all connections, of those in use once they are answered."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _taken(self) -> _Connection | None:
        """A connection that is at hand; those whose replica is gone are let go."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.over:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> _Connection | None:
        """A connection to one of the replicas; None when Serve's choice is on another machine."""
        found = ChallengerAddress(*await _answered(self._handle.address.remote()))
        if found.node != self._node:
            return None
        return _Connection(*await asyncio.open_unix_connection(found.path))


class _Connection:
    """One question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, message: bytes) -> bytes:
        self._writer.write(message)
        return await _read(self._reader)

    @property
    def over(self) -> bool:
        """Whether the other side has closed it."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()


async def _answered(response: Any) -> Any:
    """What Serve answers; a call that is given up here is given up there."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)
