"""Requests put together are the requests one by one; a bad value is named when its request stands alone."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from deployments.protocol.arrow_columns import MAX_NUMBER
from deployments.protocol.open_inference import InferRequestParser
from deployments.protocol.request_rows import RequestRows, RowAssembler
from tests.factories.deployments.bundles import BINARY, FEATURES
from tests.factories.deployments.traffic import infer_body

numbers = st.none() | st.floats(-MAX_NUMBER, MAX_NUMBER) | st.integers(-1000, 1000)


def rows(distances: list, datatype: str = "FP64") -> RequestRows:
    body = infer_body(distances)
    body["inputs"][0]["datatype"] = datatype
    return InferRequestParser(FEATURES, BINARY, 100).parse(body, "id").rows


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_together_is_one_after_another(requests: list[list], data) -> None:
    made = [rows(values) for values in requests]
    # Some typed already, as strict integers and binary tensors are.
    if data.draw(st.booleans()):
        made.append(rows([1, 2], "INT32"))
    assembler = RowAssembler(FEATURES)
    assert assembler.table(made).equals(pa.concat_tables([assembler.table([one]) for one in made]))


@pytest.mark.parametrize("bad", [["far"], [1e300], [1.0, [2.0]], [{}]])
def test_a_bad_value_is_found_together_and_named_alone(bad: list) -> None:
    assembler = RowAssembler(FEATURES)
    with pytest.raises(RequestError):
        assembler.table([rows([1.0]), rows(bad)])
    with pytest.raises(RequestError) as caught:
        assembler.table([rows(bad)])
    assert caught.value.field.startswith("inputs[0].data[")
