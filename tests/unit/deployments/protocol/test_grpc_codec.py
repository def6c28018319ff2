"""gRPC messages have the same content as the REST body."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from deployments.protocol import binary_tensors, inference_pb2
from deployments.protocol.grpc_codec import build_infer_response, build_metadata_response, to_rest_body
from deployments.protocol.open_inference import InferRequest, InferRequestParser
from deployments.protocol.request_rows import RequestRows, RowAssembler
from tests.factories.deployments.request_load import infer_body
from tests.factories.deployments.tasks import BINARY, FEATURES, IMAGES, MULTICLASS
from tests.factories.errors import raises

texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=10)


def message(carriers: list[str], raw: bool, **more):
    request = inference_pb2.ModelInferRequest(model_name="trips", **more)
    rows = len(carriers)
    distances, times = np.arange(rows, dtype="<f8"), np.arange(rows, dtype="<i8")
    for name, datatype in (("distance", "FP64"), ("carrier", "BYTES"), ("departs", "INT64")):
        request.inputs.add(name=name, datatype=datatype, shape=[rows])
    if raw:
        request.raw_input_contents.extend(
            [distances.tobytes(), binary_tensors.encode_tensor(carriers), times.tobytes()]
        )
    else:
        request.inputs[0].contents.fp64_contents.extend(distances)
        request.inputs[1].contents.bytes_contents.extend(text.encode() for text in carriers)
        request.inputs[2].contents.int64_contents.extend(times)
    return inference_pb2.ModelInferRequest.FromString(request.SerializeToString())


@given(texts, st.booleans())
def test_to_rest_body_agrees_with_json(carriers: list[str], raw: bool) -> None:
    parser, assembler = InferRequestParser(FEATURES, BINARY, 100), RowAssembler(FEATURES)
    body = infer_body([float(i) for i in range(len(carriers))])
    body["inputs"][1]["data"] = carriers
    body["inputs"][2] |= {"datatype": "INT64", "data": list(range(len(carriers)))}
    request = parser.parse(to_rest_body(message(carriers, raw, id="q")), "default")
    assert request.id == "q"
    assert assembler.build_table([request.rows]).equals(assembler.build_table([parser.parse(body, "default").rows]))


def test_to_rest_body_of_wrong_messages_is_refused() -> None:
    short = message(["a"], True)
    short.raw_input_contents.pop()
    with raises(RequestError, "request.wrong_tensor_count"):
        to_rest_body(short)
    odd = message(["a"], False)
    odd.inputs[0].datatype = "FP16"
    with raises(RequestError, "request.wrong_datatype") as caught:
        to_rest_body(odd)
    assert caught.value.field == "inputs[0].datatype"
    garbled = message(["a"], False)
    garbled.inputs[1].contents.bytes_contents[0] = b"\xff"
    with raises(RequestError, "request.not_utf8"):
        to_rest_body(garbled)


def test_to_rest_body_with_a_long_datatype_quotes_its_first_20_characters() -> None:
    odd = message(["a"], False)
    odd.inputs[0].datatype = "abcdefghijklmnopqrstuvwxyz"
    with raises(RequestError, "request.wrong_datatype", datatype="abcdefghijklmnopqrst"):
        to_rest_body(odd)


def test_build_infer_response_without_requested_outputs_has_all() -> None:
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    request = InferRequest("q", RequestRows(1, (), ()))
    response = build_infer_response(request, "trees", "7", "champion", MULTICLASS, scores)
    assert [output.name for output in response.outputs] == ["probabilities", "label"]


def test_build_infer_response_has_raw_tensors_of_the_requested_outputs() -> None:
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    request = InferRequest("q", RequestRows(1, (), ()), ("label",))
    response = build_infer_response(request, "trees", "7", "challenger", MULTICLASS, scores)
    assert [output.name for output in response.outputs] == ["label"]
    assert binary_tensors.decode_tensor(memoryview(response.raw_output_contents[0]), "BYTES", "x").to_pylist() == [
        "birch"
    ]
    assert response.parameters["variant"].string_param == "challenger"
    metadata = build_metadata_response("trees", ["7"], IMAGES, MULTICLASS)
    assert list(metadata.inputs[0].shape) == [-1, 2, 3]


def test_message_survives_pickling() -> None:
    sent = message(["a"], True, id="q")
    assert pickle.loads(pickle.dumps(sent)) == sent
