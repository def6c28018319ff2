"""Minimal HTTP/1.1 for load generation: encoding of requests, parsing of responses. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_CHUNKED = b"transfer-encoding: chunked"


class Response(NamedTuple):
    """``head`` is in lower case, status line included; ``size`` counts the bytes of the whole response."""

    status: int
    head: bytes
    body: bytes
    size: int

    def header(self, name: bytes) -> bytes:
        """A header's value; empty when there is none. ``name`` in lower case."""
        _, separator, rest = self.head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if separator else b""


def encode_request(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A POST request with its body, JSON unless ``headers`` say otherwise."""
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (fields | dict(headers or {})).items())]
    return "\r\n".join(lines).encode() + _HEAD_END + body


def parse_response(buffer: bytes) -> Response | None:
    """The response at the beginning of ``buffer``; None while it is incomplete.

    Raises ValueError for a response with neither a length nor chunks: its end is unknown.
    """
    end = buffer.find(_HEAD_END)
    if end < 0:
        return None
    head = buffer[:end].lower()
    start = end + len(_HEAD_END)
    at = head.find(_LENGTH)
    if at >= 0:
        stop = head.find(b"\r\n", at + 2)
        size = start + int(head[at + len(_LENGTH) : stop if stop >= 0 else None])
        return Response(int(head[9:12]), head, buffer[start:size], size) if len(buffer) >= size else None
    if _CHUNKED not in head:
        raise ValueError(f"a response without a length: {head[:200]!r}")
    return _chunked(buffer, head, start)


def _chunked(buffer: bytes, head: bytes, at: int) -> Response | None:
    body = b""
    while (line_end := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line_end].partition(b";")[0], 16)
        at = line_end + 2
        if len(buffer) < at + size + 2:
            return None
        if not size:
            return Response(int(head[9:12]), head, body, at + 2)
        body += buffer[at : at + size]
        at += size + 2
    return None
