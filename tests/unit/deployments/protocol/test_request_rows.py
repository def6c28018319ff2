"""A table of several requests is the concatenation of their tables; a bad value is named when its request is alone."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from deployments.protocol.arrow_columns import MAX_NUMBER, TIMESTAMP
from deployments.protocol.open_inference import InferRequestParser
from deployments.protocol.request_rows import RequestRows, RowAssembler
from tests.factories.deployments.request_load import infer_body
from tests.factories.deployments.tasks import BINARY, FEATURES, IMAGES

numbers = st.none() | st.floats(-MAX_NUMBER, MAX_NUMBER) | st.integers(-1000, 1000)


def rows(distances: list, datatype: str = "FP64") -> RequestRows:
    body = infer_body(distances)
    body["inputs"][0]["datatype"] = datatype
    return InferRequestParser(FEATURES, BINARY, 100).parse(body, "id").rows


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_build_table_of_several_requests_is_their_concatenation(requests: list[list], data) -> None:
    parts = [rows(values) for values in requests]
    # Strict integers and binary tensors arrive typed.
    if data.draw(st.booleans()):
        parts.append(rows([1, 2], "INT32"))
    assembler = RowAssembler(FEATURES)
    assert assembler.build_table(parts).equals(pa.concat_tables([assembler.build_table([one]) for one in parts]))


@pytest.mark.parametrize("bad", [["far"], [1e300], [1.0, [2.0]], [{}]])
def test_build_table_with_a_bad_value_names_it_when_alone(bad: list) -> None:
    assembler = RowAssembler(FEATURES)
    with pytest.raises(RequestError):
        assembler.build_table([rows([1.0]), rows(bad)])
    with pytest.raises(RequestError) as caught:
        assembler.build_table([rows(bad)])
    assert caught.value.field.startswith("inputs[0].data[")


def test_build_table_of_nulls_alone_keeps_the_types_of_its_columns() -> None:
    body = infer_body([None, None])
    body["inputs"][1]["data"] = [None, None]
    table = RowAssembler(FEATURES).build_table([InferRequestParser(FEATURES, BINARY, 100).parse(body, "id").rows])
    assert table.schema.types == [pa.float64(), pa.string(), TIMESTAMP]
    assert [table[name].null_count for name in ("distance", "carrier")] == [2, 2]


def test_build_table_of_lists_beside_arrays_types_both() -> None:
    body = infer_body([7])
    body["inputs"][0]["datatype"] = "INT32"
    typed, plain = (
        InferRequestParser(FEATURES, BINARY, 100).parse(one, "id").rows for one in (body, infer_body([2.5]))
    )
    assert RowAssembler(FEATURES).build_table([typed, plain])["distance"].to_pylist() == [7.0, 2.5]


def test_build_table_of_typed_tensors_joins_them() -> None:
    images = [pa.array([[float(i)] * 6], pa.list_(pa.float32())) for i in range(3)]
    requests = [RequestRows(1, (image,), ("inputs[0].data",)) for image in images]
    assembler = RowAssembler(IMAGES)
    assert assembler.build_table(requests[:1])["pixels"].to_pylist() == [[0.0] * 6]
    assert assembler.build_table(requests)["pixels"].to_pylist() == [[0.0] * 6, [1.0] * 6, [2.0] * 6]
