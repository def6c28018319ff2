"""What a champion's replica and a challenger's exchange over a socket, as bytes. Pure.

A message is a frame: its length, 4 bytes little-endian, then as many bytes. A score request is its time, the number of
rows of each caller's request, and the rows (Arrow IPC); its results are a line of JSON and the scores, float32.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic_core import from_json, to_json

from cluster.errors import RayloopError

LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<qI")


class ScoreRequest(NamedTuple):
    """Several callers' requests to score together."""

    rows: bytes
    """Their rows, one request after another, as Arrow IPC."""
    sizes: list[int]
    """Number of rows of each."""
    now_us: int
    """Their time, microseconds since the epoch."""


class ScoreResult(NamedTuple):
    """A challenger's result for one caller's request: ``scores``, or else ``error``."""

    version: str
    scores: np.ndarray | None
    latency_ms: float | None
    error: str | None


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one message. Raises IncompleteReadError when the other side closes the connection."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


def encode_frame(*parts: bytes) -> bytes:
    """Join parts into one message."""
    return b"".join((LENGTH.pack(sum(map(len, parts))), *parts))


def encode_request(request: ScoreRequest) -> bytes:
    """Encode a request as a message."""
    sizes = np.array(request.sizes, "<u4")
    return encode_frame(_HEAD.pack(request.now_us, len(sizes)), sizes.tobytes(), request.rows)


def decode_request(message: bytes) -> ScoreRequest:
    """Decode the request in a message."""
    now_us, count = _HEAD.unpack_from(message)
    sizes = np.frombuffer(message, "<u4", count, _HEAD.size).tolist()
    return ScoreRequest(message[_HEAD.size + 4 * count :], sizes, now_us)


def encode_results(results: Sequence[ScoreResult]) -> bytes:
    """Encode the results of a request as a message."""
    heads = [[r.version, r.latency_ms, r.error, None if r.scores is None else r.scores.shape] for r in results]
    scores = [np.ascontiguousarray(r.scores, "<f4").tobytes() for r in results if r.scores is not None]
    return encode_frame(to_json(heads), b"\n", *scores)


def encode_error(error: str) -> bytes:
    """Encode the failure of a whole request as a message."""
    return encode_frame(to_json({"error": error}), b"\n")


def decode_results(message: bytes) -> list[ScoreResult]:
    """Decode the results in a message.

    Raises:
        RayloopError: The message says that the request failed.
    """
    head, _, data = message.partition(b"\n")
    heads = from_json(head)
    if isinstance(heads, dict):
        raise RayloopError("rayloop.challenger_failed", error=heads["error"])
    results, at = list[ScoreResult](), 0
    for version, latency_ms, error, shape in heads:
        scores = None
        if shape is not None:
            scores = np.frombuffer(data, "<f4", math.prod(shape), at).reshape(shape)
            at += scores.nbytes
        results.append(ScoreResult(version, scores, latency_ms, error))
    return results
