"""The OpenAPI document of a model: valid, and true to the parsers and the responses."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from cluster.errors import RequestError
from cluster.values import Task
from deployments.http_messages import error_response
from deployments.protocol.feedback import parse_feedback
from deployments.protocol.mlflow_invocations import encode_invocation_response, parse_invocation
from deployments.protocol.open_inference import InferRequestParser, describe_model, encode_infer_response
from deployments.protocol.openapi import build_openapi
from deployments.protocol.request_rows import RowAssembler
from deployments.serve_schema import RequestLimits
from features.definitions import Column, FeatureSet
from tests.factories.deployments.tasks import BINARY, FEATURES, IMAGES, MULTICLASS

REGRESSION = Task(kind="regression", label="units")
LONE = FeatureSet(name="lone", request=(Column(name="text", kind="category"),))
MODELS = {"trips": (FEATURES, BINARY), "trees": (IMAGES, MULTICLASS), "lone": (LONE, REGRESSION)}
LIMITS = RequestLimits(rows=8)
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.5, 1e300, 10**30, "", "a", "2024-05-01", "2024-05-01T10:00:00Z"]
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
SCORES = {"binary": np.array([0.5, 0.25]), "regression": np.array([12.0, -3.0]), "multiclass": np.full((2, 3), 1 / 3)}


def build(model: str, *, access: bool = True) -> dict[str, Any]:
    features, task = MODELS[model]
    # As sent: only JSON survives.
    return json.loads(json.dumps(build_openapi(features, task, model, "7", LIMITS, access=access), allow_nan=False))


DOCUMENTS = {model: build(model) for model in MODELS}


def schema(model: str, name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(DOCUMENTS[model]["components"]["schemas"][name])


def examples(model: str, path: str) -> dict[str, Any]:
    body = DOCUMENTS[model]["paths"][f"/v2/models/{model}{path}"]["post"]["requestBody"]
    return {name: one["value"] for name, one in body["content"]["application/json"]["examples"].items()}


def parse(model: str, path: str, body: Any) -> Any:
    """What the path's parser makes of a body. Raises RequestError."""
    features, task = MODELS[model]
    if not isinstance(body, dict):
        raise RequestError("request.malformed_json", reason="it is not an object")
    if path == "/feedback":
        return parse_feedback(body, task, LIMITS.rows)
    if path == "/infer":
        rows = InferRequestParser(features, task, LIMITS.rows).parse(body, "default").rows
    else:
        rows = parse_invocation(body, features, LIMITS.rows)
    return RowAssembler(features).build_table([rows])


PATHS = {"/infer": "InferRequest", "/invocations": "InvocationRequest", "/feedback": "FeedbackRequest"}
PIXELS = {"name": "pixels", "shape": [1, 2, 3], "datatype": "FP32"}
ROW = {"distance": 1.0, "carrier": "AA", "departs": "2024-05-01T10:00:00Z"}
EVERY_BODY = [(model, path, name) for model in MODELS for path in PATHS for name in examples(model, path)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("access", [False, True])
def test_build_openapi_gives_valid_openapi(model: str, access: bool) -> None:
    validate(build(model, access=access), cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize(("model", "path", "name"), EVERY_BODY)
def test_examples_pass_schema_and_parser(model: str, path: str, name: str) -> None:
    body = examples(model, path)[name]
    schema(model, PATHS[path]).validate(body)
    assert parse(model, path, body)


@given(st.sampled_from(EVERY_BODY), st.data())
def test_schema_allows_what_the_parser_accepts(body: tuple[str, str, str], data: st.DataObject) -> None:
    """Bodies that differ from an example in some places: a schema that is stricter than the code would refuse some."""
    model, path, name = body
    changed = copy.deepcopy(examples(model, path)[name])
    for _ in range(data.draw(st.integers(1, 3))):
        changed = with_a_change(changed, data)
    try:
        parse(model, path, changed)
    except RequestError:
        return
    schema(model, PATHS[path]).validate(changed)


def with_a_change(body: Any, data: st.DataObject) -> Any:
    """``body`` with a value somewhere in it replaced, repeated, taken away or put in a list."""
    if isinstance(body, dict | list) and body and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(list(body) if isinstance(body, dict) else range(len(body))))
        action = data.draw(st.sampled_from(["within", "within", "within", "remove", "repeat"]))
        if action == "within":
            body[key] = with_a_change(body[key], data)
        elif action == "remove":
            del body[key]
        elif isinstance(body, list):
            body.append(copy.deepcopy(body[key]))
        else:
            body[data.draw(st.sampled_from(["id", "outputs", "time", "parameters"]))] = data.draw(ANYTHING)
        return body
    return data.draw(st.one_of(ANYTHING, st.just([body]), st.sampled_from(["FP32", "BOOL", "INT8", "INT64", "BYTES"])))


@pytest.mark.parametrize(
    ("datatype", "values", "fine"),
    [
        ("FP32", [1, 2.5, None], True),
        ("BOOL", [True, None, False], True),
        ("BOOL", [1, 0, 1], False),
        ("INT8", [1, None, 3], True),
        ("INT8", [1.5, 2, 3], False),
        ("FP64", ["1", "2", "3"], False),
        ("FP64", [1e39, 1, 1], False),
        ("FP64", [[1], [2], [3]], True),
        ("BYTES", [1, 2, 3], False),
    ],
)
def test_schema_agrees_with_parser_on_datatypes(datatype: str, values: list, fine: bool) -> None:
    body = copy.deepcopy(examples("trips", "/infer")["row"])
    for tensor in body["inputs"]:
        tensor["shape"] = [3]
        tensor["data"] = tensor["data"] * 3
    body["inputs"][0] |= {"datatype": datatype, "data": values}
    assert schema("trips", "InferRequest").is_valid(body) == fine
    if fine:
        assert parse("trips", "/infer", body).num_rows == 3
    else:
        with pytest.raises(RequestError):
            parse("trips", "/infer", body)


@pytest.mark.parametrize(
    ("model", "path", "body"),
    [
        ("trips", "/infer", {"inputs": []}),
        ("trips", "/infer", {"id": "bad id"} | examples("trips", "/infer")["row"] | {"id": "bad id"}),
        ("trees", "/infer", {"inputs": [{"name": "pixels", "shape": [1, 3, 2], "datatype": "FP32", "data": [0] * 6}]}),
        ("trees", "/infer", {"inputs": [{"name": "pixels", "shape": [1, 2, 3], "datatype": "BYTES", "data": [0] * 6}]}),
        ("trips", "/invocations", {"instances": [{"distance": 1}]}),
        ("trips", "/invocations", examples("trips", "/invocations")["inputs"] | {"instances": []}),
        ("lone", "/invocations", {"inputs": [1]}),
        ("trips", "/invocations", {"instances": []}),
        ("trips", "/invocations", {"inputs": {"distance": [], "carrier": [], "departs": []}}),
        ("trips", "/invocations", {"dataframe_records": [ROW | {"other": 1}]}),
        ("trips", "/feedback", {"labels": []}),
        ("trips", "/feedback", {"labels": [{"id": "a", "label": 2}]}),
        ("trees", "/feedback", {"labels": [{"id": "a", "label": "oak"}]}),
        ("lone", "/feedback", {"labels": [{"id": "", "label": 1}]}),
        ("lone", "/feedback", {"labels": [{"id": "a", "label": 1}] * 9}),
    ],
)
def test_schema_and_parser_refuse_plainly_wrong_bodies(model: str, path: str, body: dict) -> None:
    assert not schema(model, PATHS[path]).is_valid(body)
    with pytest.raises(RequestError):
        parse(model, path, body)


@pytest.mark.parametrize(
    ("model", "path", "body"),
    [
        ("trips", "/invocations", {"instances": [ROW]}),
        ("trips", "/feedback", {"labels": [{"id": "a", "label": label} for label in (0, 1, False, True)]}),
        ("lone", "/feedback", {"labels": [{"id": "a", "label": label} for label in (-3.5, 12, True)]}),
        ("trees", "/infer", {"inputs": [PIXELS | {"data": [1, 2, 3, 4, 5, 6]}]}),
        ("trees", "/infer", {"inputs": [PIXELS | {"data": [[1, 2, 3, 4, 5, 6]]}]}),
        ("trees", "/infer", {"inputs": [PIXELS | {"data": [[[1, 2, 3], [4, 5, 6]]]}]}),
        ("trees", "/invocations", {"instances": [[[1, 2, 3], [4, 5, 6]]]}),
    ],
)
def test_schema_and_parser_accept_each_form_of_a_body(model: str, path: str, body: dict) -> None:
    schema(model, PATHS[path]).validate(body)
    assert parse(model, path, body)


def test_schema_of_a_model_with_one_input_allows_bare_values() -> None:
    for shape in ("instances", "inputs"):
        schema("lone", "InvocationRequest").validate({shape: ["a", None]})
        assert not schema("trips", "InvocationRequest").is_valid({shape: ["a", None]})


@pytest.mark.parametrize("model", MODELS)
def test_responses_match_their_schemas(model: str) -> None:
    features, task = MODELS[model]
    scores = SCORES[task.kind].astype(np.float32)
    request = InferRequestParser(features, task, LIMITS.rows).parse(examples(model, "/infer")["row"], "default")
    answer = json.loads(encode_infer_response(request, model, "7", "champion", task, scores).body)
    schema(model, "InferResponse").validate(answer)
    assert not schema(model, "InferResponse").is_valid(answer | {"outputs": [{"name": "other"}]})
    schema(model, "InvocationResponse").validate(json.loads(encode_invocation_response("7", task, scores)))
    schema(model, "Metadata").validate(describe_model(model, ["7"], features, task))
    error = error_response(RequestError("request.body_too_large", field="body", limit=1))
    schema(model, "Error").validate(json.loads(error.body))


def test_build_openapi_with_access_secures_each_path_but_ready() -> None:
    secured = {p: "security" in op for p, item in DOCUMENTS["trips"]["paths"].items() for op in item.values()}
    assert secured == {p: not p.endswith("/ready") for p in DOCUMENTS["trips"]["paths"]}
    infer = DOCUMENTS["trips"]["paths"]["/v2/models/trips/infer"]["post"]
    assert {"401", "403", "429"} <= set(infer["responses"])
    open_ = build("trips", access=False)
    assert "securitySchemes" not in open_["components"]
    assert not {"401", "403", "429"} & set(open_["paths"]["/v2/models/trips/infer"]["post"]["responses"])


def test_build_openapi_gives_the_headers_of_each_error() -> None:
    responses = DOCUMENTS["trips"]["paths"]["/v2/models/trips/infer"]["post"]["responses"]
    header_names = {status: set(response["headers"]) for status, response in responses.items() if "headers" in response}
    assert header_names.pop("200") == {"x-rayloop-version", "x-rayloop-variant"}
    assert header_names == {
        "401": {"WWW-Authenticate"},
        "405": {"Allow"},
        "429": {"Retry-After"},
        "503": {"Retry-After"},
    }


def test_build_openapi_allows_no_negative_json_length() -> None:
    parameters = DOCUMENTS["trips"]["paths"]["/v2/models/trips/infer"]["post"]["parameters"]
    (length,) = (one["schema"] for one in parameters if one["name"] == "inference-header-content-length")
    assert [jsonschema.Draft202012Validator(length).is_valid(value) for value in (-1, 0, 1)] == [False, True, True]


def test_build_openapi_with_large_tensors_has_no_example() -> None:
    large = FeatureSet(name="large", request=(Column(name="pixels", kind="tensor", shape=(64, 64)),))
    document = build_openapi(large, MULTICLASS, "large", "1", LIMITS, access=False)
    validate(document, cls=OpenAPIV31SpecValidator)
    assert "examples" not in json.dumps(document["paths"]["/v2/models/large/infer"])
    assert len(json.dumps(document)) < 40_000
