"""Score requests and results survive the way over a socket."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cluster.errors import RayloopError
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
from tests.factories.errors import raises

SCORES = st.none() | arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=1, max_dims=2, max_side=5), elements=st.floats(0, 1, width=32)
)
RESULTS = st.builds(ScoreResult, st.text(), SCORES, st.none() | st.floats(0, 1e6), st.none() | st.text())


def body(message: bytes) -> bytes:
    (length,) = LENGTH.unpack_from(message)
    assert len(message) == LENGTH.size + length
    return message[LENGTH.size :]


@given(st.binary(), st.lists(st.integers(0, 4096)), st.integers(-(2**62), 2**62))
def test_decode_request_of_an_encoded_request_returns_it(rows: bytes, sizes: list[int], now_us: int) -> None:
    request = ScoreRequest(rows, sizes, now_us)
    assert decode_request(body(encode_request(request))) == request


@given(st.lists(RESULTS))
def test_decode_results_of_encoded_results_returns_them(results: list[ScoreResult]) -> None:
    decoded = decode_results(body(encode_results(results)))
    assert [(s.version, s.latency_ms, s.error) for s in decoded] == [
        (s.version, s.latency_ms, s.error) for s in results
    ]
    for result, expected in zip(decoded, results, strict=True):
        if expected.scores is None:
            assert result.scores is None
        else:
            np.testing.assert_array_equal(result.scores, expected.scores)
            assert result.scores.shape == expected.scores.shape


def test_decode_results_of_an_error_raises_it() -> None:
    with raises(RayloopError, "rayloop.challenger_failed", error="KeyError: 'x'"):
        decode_results(body(encode_error("KeyError: 'x'")))
