"""Parsing of responses that arrive in any pieces; encoding of requests."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving import samples
from benchmarks.serving.http import parse_response

bodies = st.binary(max_size=200)


@given(bodies, st.booleans())
def test_parse_response_with_a_length_ends_with_its_last_byte(body: bytes, decoy: bool) -> None:
    other = b"Inference-Header-Content-Length: 1\r\n" if decoy else b""
    whole = b"HTTP/1.1 503 Busy\r\n" + other + b"Content-Length: %d\r\nX-Tag: Seven\r\n\r\n" % len(body) + body
    for end in range(len(whole)):
        assert parse_response(whole[:end]) is None
    response = parse_response(whole + b"HTTP/1.1")
    assert response is not None
    assert (response.status, response.body, response.size) == (503, body, len(whole))
    assert response.header(b"x-tag") == b"seven"
    assert response.header(b"tag") == b""


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_parse_response_with_chunks_ends_with_the_empty_chunk(chunks: list[bytes]) -> None:
    content = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + content
    for end in range(len(whole)):
        assert parse_response(whole[:end]) is None
    response = parse_response(whole)
    assert response is not None
    assert (response.body, response.size) == (b"".join(chunks), len(whole))


def test_parse_response_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="without a length"):
        parse_response(b"HTTP/1.0 200 OK\r\n\r\nbody")


def test_binary_tensors_have_the_columns_in_order() -> None:
    columns = samples.sample(5, 0)
    head, _, body = samples.binary_tensors("/x", columns).partition(b"\r\n\r\n")
    length = int(head.decode().partition("Inference-Header-Content-Length: ")[2].splitlines()[0])
    inputs, at = json.loads(body[:length])["inputs"], length
    for tensor in inputs:
        size = tensor["parameters"]["binary_data_size"]
        data, at = body[at : at + size], at + size
        if tensor["datatype"] == "FP32":
            np.testing.assert_array_equal(np.frombuffer(data, "<f4"), np.float32(columns[tensor["name"]]))
            continue
        for value in columns[tensor["name"]]:
            (count,) = struct.unpack_from("<I", data)
            assert data[4 : 4 + count].decode() == value
            data = data[4 + count :]
        assert data == b""
    assert at == len(body)
