import numpy as np
import pytest
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

scores = st.none() | arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=1, max_dims=2, max_side=5), elements=st.floats(0, 1, width=32)
)
said = st.builds(ScoreResult, st.text(), scores, st.none() | st.floats(0, 1e6), st.none() | st.text())


def body(message: bytes) -> bytes:
    (length,) = LENGTH.unpack_from(message)
    assert len(message) == LENGTH.size + length
    return message[LENGTH.size :]


@given(st.binary(), st.lists(st.integers(0, 4096)), st.integers(-(2**62), 2**62))
def test_a_question_arrives_as_it_was_asked(rows: bytes, sizes: list[int], now_us: int) -> None:
    asked = ScoreRequest(rows, sizes, now_us)
    assert decode_request(body(encode_request(asked))) == asked


@given(st.lists(said))
def test_an_answer_arrives_as_it_was_given(told: list[ScoreResult]) -> None:
    read = decode_results(body(encode_results(told)))
    assert [(s.version, s.latency_ms, s.error) for s in read] == [(s.version, s.latency_ms, s.error) for s in told]
    for got, given_ in zip(read, told, strict=True):
        if given_.scores is None:
            assert got.scores is None
        else:
            np.testing.assert_array_equal(got.scores, given_.scores)
            assert got.scores.shape == given_.scores.shape


def test_a_refusal_is_raised_where_it_is_read() -> None:
    with pytest.raises(RayloopError, match="KeyError: 'x'"):
        decode_results(body(encode_error("KeyError: 'x'")))
