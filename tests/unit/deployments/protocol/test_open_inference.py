"""Valid requests become typed rows; invalid requests are refused by field and never crash the parser."""

import json
import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RequestError
from cluster.values import Task
from deployments.protocol.arrow_columns import MAX_NUMBER
from deployments.protocol.feedback import parse_feedback
from deployments.protocol.mlflow_invocations import encode_invocation_response, parse_invocation
from deployments.protocol.open_inference import (
    InferRequest,
    InferRequestParser,
    describe_model,
    encode_infer_response,
    output_tensors,
    parse_json_object,
)
from deployments.protocol.request_rows import RowAssembler
from tests.factories.deployments.request_load import infer_body
from tests.factories.deployments.tasks import BINARY, CLASSES, FEATURES, IMAGES, MULTICLASS
from tests.factories.errors import raises

MAX_ROWS = 100
NAMES = tuple(column.name for column in FEATURES.request)
REGRESSION = Task(kind="regression", label="delay")

numbers = st.none() | st.floats(-MAX_NUMBER, MAX_NUMBER) | st.integers(-(2**53), 2**53)
texts = st.none() | st.text(st.characters(codec="utf-8"))
times = st.datetimes(timezones=st.just(None)) | st.datetimes(timezones=st.timezones())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda child: st.lists(child, max_size=4) | st.dictionaries(st.text(max_size=5), child, max_size=4),
    max_leaves=20,
)


def parse(body: dict, features=FEATURES, task: Task = BINARY) -> pa.Table:
    """The typed rows of a request."""
    return RowAssembler(features).build_table([parse_request(body, features, task).rows])


def parse_request(body: dict, features=FEATURES, task: Task = BINARY) -> InferRequest:
    return InferRequestParser(features, task, MAX_ROWS).parse(body, "default")


def refusal(body: dict, features=FEATURES, task: Task = BINARY) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(body, features, task)
    return caught.value


def parsed_or_refused(call: Callable[[], object]) -> bool:
    """Whether a call gives something, or a refusal with a status and a field; any other exception passes through."""
    try:
        return call() is not None
    except RequestError as error:
        return 400 <= error.status < 500 and bool(error.field)


@given(st.lists(st.tuples(numbers, texts), min_size=1, max_size=MAX_ROWS))
def test_parse_keeps_values_order_and_nulls(rows: list[tuple]) -> None:
    n = len(rows)
    body = infer_body([row[0] for row in rows])
    body["inputs"][1] |= {"data": [row[1] for row in rows]}
    table = parse(body)
    assert table.column("distance").to_pylist() == [None if r[0] is None else float(r[0]) for r in rows]
    assert table.column("carrier").to_pylist() == [row[1] for row in rows]
    assert table.num_rows == n
    assert str(table.schema.field("departs").type) == "timestamp[us, tz=UTC]"


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_parse_of_times_as_text_and_microseconds_agrees(us: int) -> None:
    body = infer_body([1.0])
    body["inputs"][2] |= {"datatype": "INT64", "data": [us]}
    first = parse(body).column("departs")
    body["inputs"][2] |= {"datatype": "BYTES", "data": [first[0].as_py().isoformat()]}
    assert parse(body).column("departs").equals(first)


def test_parse_of_times_converts_offsets_to_utc() -> None:
    body = infer_body([1.0, 1.0])
    body["inputs"][2] |= {"data": ["2024-05-01T10:00:00", "2024-05-01T12:00:00+02:00"]}
    assert len(set(parse(body).column("departs").to_pylist())) == 1


def test_parse_of_nan_is_null_and_of_infinity_is_refused() -> None:
    assert parse(infer_body([math.nan])).column("distance").null_count == 1
    assert refusal(infer_body([1.0, math.inf])).field == "inputs[0].data[1]"


@pytest.mark.parametrize(
    ("datatype", "data", "fine"),
    [
        ("INT8", [127], True),
        ("INT8", [128], False),
        ("UINT8", [-1], False),
        ("INT64", [1.5], False),
        ("BOOL", [True], True),
        ("BOOL", [1], False),
        ("FP32", [None], True),
        ("FP64", ["1"], False),
        ("FP64", [[1.0]], True),
        ("FP64", [[[1.0]]], False),
        ("FP64", [{}], False),
        ("BYTES", ["1"], False),
        (None, [1.0], False),
        ("FP64", "1", False),
        ("FP64", [1.0, 2.0], False),
        ("FP64", [10**400], False),
    ],
)
def test_parse_checks_the_declared_datatype(datatype: str, data: object, fine: bool) -> None:
    body = infer_body([0.0])
    body["inputs"][0] |= {"datatype": datatype, "data": data}
    if fine:
        assert parse(body).num_rows == 1
    else:
        assert refusal(body).field.startswith("inputs[0].")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda inputs: inputs.pop(), "inputs"),
        (lambda inputs: inputs.append(inputs[0]), "inputs[3].name"),
        (lambda inputs: inputs[1].update(name="x"), "inputs[1].name"),
        (lambda inputs: inputs[1].update(name=[]), "inputs[1].name"),
        (lambda inputs: inputs[1].update(shape=[2]), "inputs[1].shape"),
        (lambda inputs: inputs[1].update(shape=[1, 2]), "inputs[1].shape"),
        (lambda inputs: inputs[1].update(shape=[True]), "inputs[1].shape"),
        (lambda inputs: inputs[2].update(data=[None]), "inputs[2].data[0]"),
        (lambda inputs: inputs[2].update(data=["0001-01-01T00:00:00+14:00"]), "inputs[2].data[0]"),
        (lambda inputs: inputs[2].update(data=["0001-01-01T00:00:00-14:00"]), None),
        (lambda inputs: inputs.__setitem__(0, 3), "inputs[0].name"),
        (lambda inputs: inputs.clear(), "inputs"),
    ],
)
def test_parse_of_wrong_inputs_names_the_field(change, field: str | None) -> None:
    body = infer_body([1.0])
    change(body["inputs"])
    if field is None:
        assert parse(body).num_rows == 1
    else:
        assert refusal(body).field == field


def test_parse_of_too_many_rows_gives_413() -> None:
    assert refusal(infer_body([1.0] * (MAX_ROWS + 1))).status == 413


@given(st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters"]), anything))
def test_parse_of_any_json_parses_or_refuses(body: dict) -> None:
    assert parsed_or_refused(lambda: parse(body))


@given(anything, st.integers(0, 2), st.sampled_from(["data", "shape", "datatype", "name"]))
def test_parse_of_any_value_anywhere_parses_or_refuses(value: object, index: int, key: str) -> None:
    body = infer_body([1.0])
    body["inputs"][index][key] = value
    assert parsed_or_refused(lambda: parse(body))


@given(anything, st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]))
def test_parse_invocation_of_any_value_parses_or_refuses(value: object, shape: str) -> None:
    with pytest.raises(RequestError):
        RowAssembler(FEATURES).build_table([parse_invocation({shape: value}, FEATURES, MAX_ROWS)])


@given(st.binary(max_size=50))
def test_parse_json_object_of_any_bytes_parses_or_refuses(body: bytes) -> None:
    assert parsed_or_refused(lambda: parse_json_object(body))


@pytest.mark.parametrize("nested", [False, True])
def test_parse_of_tensors_flat_or_nested_agrees(nested: bool) -> None:
    images = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    data = images.tolist() if nested else images.ravel().tolist()
    table = parse(
        {"inputs": [{"name": "pixels", "shape": [2, 2, 3], "datatype": "FP32", "data": data}]}, IMAGES, MULTICLASS
    )
    np.testing.assert_array_equal(np.array(table.column("pixels").to_pylist()), images.reshape(2, 6))


@pytest.mark.parametrize("data", [[[1, 2, 3], [4, 5]], [[1, 2, 3], [4, 5, None]], [[1, 2, 3], 4], [1, 2, 3, 4, 5]])
def test_parse_of_ragged_tensors_is_refused(data: list) -> None:
    body = {"inputs": [{"name": "pixels", "shape": [1, 2, 3], "datatype": "FP32", "data": [data]}]}
    assert refusal(body, IMAGES, MULTICLASS).field.startswith("inputs[0].data")


def test_encode_infer_response_has_the_requested_outputs() -> None:
    body = {"inputs": [{"name": "pixels", "shape": [1, 2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    request = parse_request(body | {"outputs": [{"name": "label"}]}, IMAGES, MULTICLASS)
    answer = json.loads(encode_infer_response(request, "trees", "7", "challenger", MULTICLASS, scores).body)
    assert answer["outputs"] == [{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["birch"]}]
    assert answer["parameters"] == {"variant": "challenger"}
    assert refusal(body | {"outputs": [{"name": "score"}]}, IMAGES, MULTICLASS).field == "outputs[0].name"


def test_describe_model_matches_the_response() -> None:
    metadata = describe_model("trees", ["7"], IMAGES, MULTICLASS)
    tensors = output_tensors(MULTICLASS, np.zeros((5, 3), np.float32))
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 2, 3]}]
    assert [(o["name"], o["datatype"], o["shape"][1:]) for o in metadata["outputs"]] == [
        (o.name, o.datatype, o.shape[1:]) for o in tensors
    ]


def test_encode_invocation_response_follows_the_task() -> None:
    assert json.loads(encode_invocation_response("3", BINARY, np.array([0.5], np.float32)))["predictions"] == [0.5]
    answer = json.loads(encode_invocation_response("3", MULTICLASS, np.array([[0.25, 0.5, 0.25]], np.float32)))
    assert answer["predictions"] == [{"label": "birch", "probabilities": [0.25, 0.5, 0.25]}]


@pytest.mark.parametrize(
    ("body", "code", "fields"),
    [
        ({"instances": []}, "request.wrong_shape", {}),
        ({"dataframe_records": []}, "request.wrong_shape", {}),
        ({"instances": [{"zz": 1}]}, "request.wrong_columns", {"missing": list(NAMES), "unknown": ["zz"]}),
        (
            {"inputs": {**{name: [None] for name in NAMES}, "zz": [1]}},
            "request.wrong_columns",
            {"missing": [], "unknown": ["zz"]},
        ),
    ],
)
def test_parse_invocation_with_wrong_columns_names_them(body: dict[str, object], code: str, fields: dict) -> None:
    with raises(RequestError, code, **fields):
        parse_invocation(body, FEATURES, MAX_ROWS)


def test_parse_invocation_with_one_column_accepts_bare_values() -> None:
    images = [[[1, 2, 3], [4, 5, 6]]]
    for shape in ("instances", "inputs"):
        table = RowAssembler(IMAGES).build_table([parse_invocation({shape: images}, IMAGES, MAX_ROWS)])
        assert table.column("pixels").to_pylist() == [[1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [
        (BINARY, True, 1.0),
        (BINARY, 0, 0.0),
        (BINARY, 1.0, 1.0),
        (BINARY, 2, None),
        (BINARY, "1", None),
        (BINARY, None, None),
        (BINARY, math.nan, None),
        (MULTICLASS, "cedar", float(CLASSES.index("cedar"))),
        (MULTICLASS, 1, None),
        (REGRESSION, -3.5, -3.5),
        (REGRESSION, math.inf, None),
        (REGRESSION, 10**400, None),
    ],
)
def test_parse_feedback_checks_labels_by_task(task: Task, value: object, expected: float | None) -> None:
    body = {"labels": [{"id": "a", "label": value}]}
    if expected is not None:
        assert parse_feedback(body, task, MAX_ROWS).column("label").to_pylist() == [expected]
    else:
        with pytest.raises(RequestError) as caught:
            parse_feedback(body, task, MAX_ROWS)
        assert caught.value.field == "labels[0].label"


@given(anything)
def test_parse_feedback_of_any_value_parses_or_refuses(value: object) -> None:
    with pytest.raises(RequestError) as caught:
        parse_feedback({"labels": [{"id": "a", "label": 1}, value]}, BINARY, MAX_ROWS)
    assert caught.value.field.startswith("labels[1]")
