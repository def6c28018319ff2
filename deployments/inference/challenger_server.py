"""A challenger's end of the socket to champions on its machine, and a Python model's to both. Pure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import uuid4

from deployments.inference import challenger_protocol
from deployments.inference.challenger_protocol import ScoreRequest, ScoreResult

_log = logging.getLogger(__name__)


class ChallengerServer:
    """Answers score requests over a Unix socket, one at a time on each connection.

    Args:
        folder: Folder of the socket, created if missing and readable by this user only: a user who cannot reach
            Serve's handle must not reach the socket either.
        score: Scores a request.
    """

    def __init__(self, folder: Path, score: Callable[[ScoreRequest], Awaitable[Sequence[ScoreResult]]]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / f"{uuid4().hex[:16]}.sock"
        self._score = score
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen until ``close``; does nothing when it listens already."""
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)

    def close(self) -> None:
        """Stop accepting connections."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(await self._respond(await challenger_protocol.read_frame(reader)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The champion's replica has closed the connection, or is gone.
            writer.close()

    async def _respond(self, message: bytes) -> bytes:
        try:
            return challenger_protocol.encode_results(await self._score(challenger_protocol.decode_request(message)))
        except Exception as error:
            _log.exception("a score request failed")
            return challenger_protocol.encode_error(f"{type(error).__name__}: {error}")
