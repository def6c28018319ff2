"""What a champion's replica and a challenger's say to each other over a socket, as bytes. Pure.

A message is a frame: its length, 4 bytes little-endian, then as many bytes. A question is the requests' time, how many
rows each has, and the rows (Arrow IPC); an answer is a line of JSON and the scores it describes, float32.
"""

from __future__ import annotations

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
    """Rows of several requests after one another (Arrow IPC), how many each has, and their time, microseconds."""

    rows: bytes
    sizes: list[int]
    now_us: int


class ScoreResult(NamedTuple):
    """What the challenger said of one request. ``scores`` is None when it failed, and ``error`` says how."""

    version: str
    scores: np.ndarray | None
    latency_ms: float | None
    error: str | None


def encode_frame(*parts: bytes) -> bytes:
    """Parts as one message."""
    return b"".join((LENGTH.pack(sum(map(len, parts))), *parts))


def encode_request(asked: ScoreRequest) -> bytes:
    """The frame of a question."""
    sizes = np.array(asked.sizes, "<u4")
    return encode_frame(_HEAD.pack(asked.now_us, len(sizes)), sizes.tobytes(), asked.rows)


def decode_request(message: bytes) -> ScoreRequest:
    """The question that a frame holds."""
    now_us, count = _HEAD.unpack_from(message)
    sizes = np.frombuffer(message, "<u4", count, _HEAD.size).tolist()
    return ScoreRequest(message[_HEAD.size + 4 * count :], sizes, now_us)


def encode_results(said: Sequence[ScoreResult]) -> bytes:
    """The frame of an answer."""
    told = [[s.version, s.latency_ms, s.error, None if s.scores is None else s.scores.shape] for s in said]
    scores = [np.ascontiguousarray(s.scores, "<f4").tobytes() for s in said if s.scores is not None]
    return encode_frame(to_json(told), b"\n", *scores)


def encode_error(error: str) -> bytes:
    """The frame of an answer when there is none."""
    return encode_frame(to_json({"error": error}), b"\n")


def decode_results(message: bytes) -> list[ScoreResult]:
    """The answer that a frame holds. Raises RayloopError when it is a refusal."""
    head, _, scores = message.partition(b"\n")
    told = from_json(head)
    if isinstance(told, dict):
        raise RayloopError(told["error"])
    said, at = list[ScoreResult](), 0
    for version, latency_ms, error, shape in told:
        of = None
        if shape is not None:
            size = math.prod(shape)
            of = np.frombuffer(scores, "<f4", size, at).reshape(shape)
            at += of.nbytes
        said.append(ScoreResult(version, of, latency_ms, error))
    return said
