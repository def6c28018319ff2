"""Tensors in binary form: values survive encoding and decoding, and no bytes crash the parser."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from deployments.protocol import binary_tensors
from deployments.protocol.open_inference import InferRequestParser, encode_infer_response
from deployments.protocol.request_rows import RowAssembler
from tests.factories.deployments.tasks import BINARY, FEATURES, IMAGES, MULTICLASS
from tests.factories.errors import raises

MAX_ROWS = 2000
PARSER = InferRequestParser(FEATURES, BINARY, MAX_ROWS)

texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=50)


def request(tensors: list[tuple[str, str, list[int], bytes]], **more: Any) -> tuple[bytes, str]:
    """A body, and the length of its JSON part."""
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in tensors
    ]
    head = json.dumps({"inputs": inputs} | more).encode()
    return head + b"".join(data for *_, data in tensors), str(len(head))


def trip(distances: np.ndarray, carriers: list[str], times: np.ndarray) -> list[tuple[str, str, list[int], bytes]]:
    rows = len(carriers)
    return [
        ("distance", "FP64", [rows], distances.astype("<f8").tobytes()),
        ("carrier", "BYTES", [rows], binary_tensors.encode_tensor(carriers)),
        ("departs", "INT64", [rows], times.astype("<i8").tobytes()),
    ]


def parse(tensors: list[tuple[str, str, list[int], bytes]]) -> pa.Table:
    return RowAssembler(FEATURES).build_table([PARSER.parse_bytes(*request(tensors), "id").rows])


@given(texts)
def test_decode_tensor_of_encoded_texts_returns_them(values: list[str]) -> None:
    assert (
        binary_tensors.decode_tensor(memoryview(binary_tensors.encode_tensor(values)), "BYTES", "x").to_pylist()
        == values
    )


@given(texts, st.integers(0, 2**32))
def test_parse_bytes_agrees_with_json(carriers: list[str], seed: int) -> None:
    draw = np.random.default_rng(seed)
    distances, times = draw.normal(size=len(carriers)), draw.integers(0, 2**50, len(carriers))
    body = {
        "inputs": [
            {"name": name, "shape": [len(carriers)], "datatype": kind, "data": data}
            for name, kind, data in (
                ("distance", "FP64", distances.tolist()),
                ("carrier", "BYTES", carriers),
                ("departs", "INT64", times.tolist()),
            )
        ]
    }
    from_json = RowAssembler(FEATURES).build_table([PARSER.parse(body, "id").rows])
    assert parse(trip(distances, carriers, times)).equals(from_json)


def test_parse_bytes_of_nan_is_null_and_of_infinity_is_refused() -> None:
    table = parse(trip(np.array([np.nan, 1.0]), ["a", "b"], np.zeros(2)))
    assert table.column("distance").to_pylist() == [None, 1.0]
    with pytest.raises(RequestError) as caught:
        parse(trip(np.array([1.0, np.inf]), ["a", "b"], np.zeros(2)))
    assert caught.value.field == "inputs[0].data[1]"


@pytest.mark.parametrize("datatype", [kind for kind in binary_tensors.DTYPES if kind.startswith(("INT", "UINT", "FP"))])
def test_parse_bytes_reads_each_number_type(datatype: str) -> None:
    values = np.array([0, 1, 127], binary_tensors.DTYPES[datatype])
    tensors = trip(np.zeros(3), ["a"] * 3, np.zeros(3))
    tensors[0] = ("distance", datatype, [3], values.tobytes())
    assert parse(tensors).column("distance").to_pylist() == [0.0, 1.0, 127.0]


def test_parse_bytes_reads_tensors_of_two_axes() -> None:
    images = np.arange(12, dtype="<f4").reshape(2, 2, 3)
    body, header = request([("pixels", "FP32", [2, 2, 3], images.tobytes())])
    table = RowAssembler(IMAGES).build_table(
        [InferRequestParser(IMAGES, MULTICLASS, 10).parse_bytes(body, header, "id").rows]
    )
    np.testing.assert_array_equal(np.array(table.column("pixels").to_pylist()), images.reshape(2, 6))


@pytest.mark.parametrize("datatype", [*binary_tensors.DTYPES, "BYTES", "FP16", None, 7])
@given(data=st.binary(max_size=64))
def test_decode_tensor_of_any_bytes_decodes_or_refuses(datatype: object, data: bytes) -> None:
    with suppress(RequestError):
        assert len(binary_tensors.decode_tensor(memoryview(data), datatype, "x")) <= len(data)


@given(st.binary(max_size=200), st.none() | st.text(max_size=4))
def test_parse_bytes_of_any_body_refuses(body: bytes, header: str | None) -> None:
    with pytest.raises(RequestError):
        PARSER.parse_bytes(body, header, "id")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda body, header: (body, "x"), "inference-header-content-length"),
        (lambda body, header: (body, str(len(body) + 1)), "inference-header-content-length"),
        (lambda body, header: (body + b"1234", header), "body"),
        (lambda body, header: (body[:-1], header), "inputs[2]"),
    ],
)
def test_parse_bytes_with_wrong_sizes_names_the_field(change, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        PARSER.parse_bytes(*change(*request(trip(np.zeros(1), ["a"], np.zeros(1)))), "id")
    assert caught.value.field == field


@pytest.mark.parametrize("size", [-1, True, 8.0, "8", [8]])
def test_attach_tensors_with_a_size_that_is_no_number_of_bytes_names_it(size: object) -> None:
    tensor = {"name": "distance", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": size}}
    with raises(RequestError, "request.wrong_binary_size") as caught:
        binary_tensors.attach_tensors([tensor], memoryview(bytes(8)))
    assert caught.value.field == "inputs[0].parameters.binary_data_size"


def test_attach_tensors_leaves_tensors_without_a_size_as_they_are() -> None:
    plain = {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["AA"]}
    empty = {"name": "tags", "datatype": "BYTES", "shape": [0], "parameters": {"binary_data_size": 0}}
    sized = {"name": "distance", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    attached = binary_tensors.attach_tensors([plain, empty, sized], memoryview(struct.pack("<d", 2.5)))
    assert attached[0] is plain
    assert [list(one["data"].to_pylist()) for one in attached[1:]] == [[], [2.5]]


@pytest.mark.parametrize("encoded", [[b"\xff"], [b"ok", b"\xff\xfe"], [b"\xc3", b"\xa4"]])
def test_decode_tensor_of_texts_that_are_not_utf8_is_refused(encoded: list[bytes]) -> None:
    data = b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    with raises(RequestError, "request.not_utf8") as caught:
        binary_tensors.decode_tensor(memoryview(data), "BYTES", "inputs[1]")
    assert caught.value.field == "inputs[1]"


def test_encode_infer_response_in_binary_form_appends_tensors() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]], np.float32)
    images = np.zeros((2, 2, 3), "<f4")
    parser = InferRequestParser(IMAGES, MULTICLASS, 10)
    body, header = request(
        [("pixels", "FP32", [2, 2, 3], images.tobytes())],
        outputs=[{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": True}}],
    )
    content = encode_infer_response(
        parser.parse_bytes(body, header, "id"), "trees", "7", "champion", MULTICLASS, scores
    )
    assert content.header_length is not None
    head = json.loads(content.body[: content.header_length])
    assert [output.get("data") for output in head["outputs"]] == [None, ["birch", "ash"]]
    assert content.body[content.header_length :] == scores.tobytes()
    body, header = request([("pixels", "FP32", [2, 2, 3], images.tobytes())], parameters={"binary_data_output": True})
    content = encode_infer_response(
        parser.parse_bytes(body, header, "id"), "trees", "7", "champion", MULTICLASS, scores
    )
    labels = struct.pack("<I", 5) + b"birch" + struct.pack("<I", 3) + b"ash"
    assert content.body.endswith(scores.tobytes() + labels)
