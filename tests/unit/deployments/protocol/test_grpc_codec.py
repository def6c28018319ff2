"""gRPC messages say what the REST body says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from deployments.protocol import binary_tensors
from deployments.protocol.grpc_codec import build_infer_response, build_metadata_response, to_rest_body
from deployments.protocol.inference_pb import MESSAGES
from deployments.protocol.open_inference import InferRequest, InferRequestParser
from deployments.protocol.request_rows import RequestRows, RowAssembler
from tests.factories.deployments.bundles import BINARY, FEATURES, IMAGES, MULTICLASS
from tests.factories.deployments.traffic import infer_body

texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=10)


def message(carriers: list[str], raw: bool, **more):
    made = MESSAGES["ModelInferRequest"](model_name="trips", **more)
    rows = len(carriers)
    distances, times = np.arange(rows, dtype="<f8"), np.arange(rows, dtype="<i8")
    for name, datatype in (("distance", "FP64"), ("carrier", "BYTES"), ("departs", "INT64")):
        made.inputs.add(name=name, datatype=datatype, shape=[rows])
    if raw:
        made.raw_input_contents.extend([distances.tobytes(), binary_tensors.encode_tensor(carriers), times.tobytes()])
    else:
        made.inputs[0].contents.fp64_contents.extend(distances)
        made.inputs[1].contents.bytes_contents.extend(text.encode() for text in carriers)
        made.inputs[2].contents.int64_contents.extend(times)
    return MESSAGES["ModelInferRequest"].FromString(made.SerializeToString())


@given(texts, st.booleans())
def test_a_message_is_the_same_rows_as_a_body(carriers: list[str], raw: bool) -> None:
    form, assembler = InferRequestParser(FEATURES, BINARY, 100), RowAssembler(FEATURES)
    body = infer_body([float(i) for i in range(len(carriers))])
    body["inputs"][1]["data"] = carriers
    body["inputs"][2] |= {"datatype": "INT64", "data": list(range(len(carriers)))}
    asked = form.parse(to_rest_body(message(carriers, raw, id="q")), "default")
    assert asked.id == "q"
    assert assembler.table([asked.rows]).equals(assembler.table([form.parse(body, "default").rows]))


def test_wrong_messages_are_refused() -> None:
    short = message(["a"], True)
    short.raw_input_contents.pop()
    with pytest.raises(RequestError, match="2 tensors for 3 inputs"):
        to_rest_body(short)
    odd = message(["a"], False)
    odd.inputs[0].datatype = "FP16"
    with pytest.raises(RequestError) as caught:
        to_rest_body(odd)
    assert caught.value.field == "inputs[0].datatype"
    garbled = message(["a"], False)
    garbled.inputs[1].contents.bytes_contents[0] = b"\xff"
    with pytest.raises(RequestError, match="UTF-8"):
        to_rest_body(garbled)


def test_answers_carry_raw_tensors_of_the_outputs_asked_for() -> None:
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    asked = InferRequest("q", RequestRows(1, (), ()), ("label",))
    response = build_infer_response(asked, "trees", "7", "challenger", MULTICLASS, scores)
    assert [output.name for output in response.outputs] == ["label"]
    assert binary_tensors.decode_tensor(memoryview(response.raw_output_contents[0]), "BYTES", "x").to_pylist() == [
        "birch"
    ]
    assert response.parameters["variant"].string_param == "challenger"
    told = build_metadata_response("trees", ["7"], IMAGES, MULTICLASS)
    assert list(told.inputs[0].shape) == [-1, 2, 3]


def test_messages_survive_pickling() -> None:
    sent = message(["a"], True, id="q")
    assert pickle.loads(pickle.dumps(sent)) == sent
