"""MLflow's four formats of a request are equivalent; a refusal names the part at fault."""

from __future__ import annotations

import pytest

from cluster.errors import RequestError
from deployments.protocol.mlflow_invocations import parse_invocation
from deployments.protocol.request_rows import RequestRows
from features.definitions import Column, FeatureSet
from tests.factories.deployments.tasks import FEATURES
from tests.factories.errors import raises

ROWS = [{"distance": 1, "carrier": "AA", "departs": 0}, {"departs": 5, "carrier": None, "distance": 2.5}]
LONE = FeatureSet(name="lone", request=(Column(name="text", kind="category"),))


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        ("dataframe_split", {"columns": ["carrier", "distance", "departs"], "data": [["AA", 1, 0], [None, 2.5, 5]]}),
        ("dataframe_records", ROWS),
        ("instances", ROWS),
        ("inputs", {"departs": [0, 5], "distance": [1, 2.5], "carrier": ["AA", None]}),
    ],
)
def test_parse_invocation_of_each_shape_gives_the_same_rows(shape: str, value: object) -> None:
    fields = tuple(f"{shape}.{name}" for name in ("distance", "carrier", "departs"))
    expected = RequestRows(2, ([1, 2.5], ["AA", None], [0, 5]), fields)
    assert parse_invocation({shape: value}, FEATURES, 2) == expected
    with raises(RequestError, "request.too_many_rows", rows=2, limit=1) as caught:
        parse_invocation({shape: value}, FEATURES, 1)
    assert (caught.value.status, caught.value.field) == (413, shape)


@pytest.mark.parametrize("shape", ["instances", "inputs"])
def test_parse_invocation_of_bare_values_needs_a_single_column(shape: str) -> None:
    assert parse_invocation({shape: ["a", None]}, LONE, 2).values == (["a", None],)
    with raises(RequestError, "request.wrong_shape"):
        parse_invocation({shape: ["a", None]}, FEATURES, 2)
    two = FeatureSet(name="two", request=(*LONE.request, Column(name="more", kind="category")))
    with raises(RequestError, "request.wrong_shape"):
        parse_invocation({shape: ["a", None]}, two, 2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"instances": ROWS, "inputs": {}}, "body"),
        ({"dataframe_split": {"columns": "distance", "data": []}}, "dataframe_split.columns"),
        ({"dataframe_split": {"columns": [1], "data": []}}, "dataframe_split.columns"),
        ({"dataframe_split": {"columns": [], "data": {}}}, "dataframe_split.data"),
        ({"dataframe_split": {"columns": ["distance"], "data": [[1], [1, 2]]}}, "dataframe_split.data[1]"),
        ({"dataframe_records": [ROWS[0], 7]}, "dataframe_records"),
        ({"dataframe_records": 7}, "dataframe_records"),
        ({"instances": "AA"}, "instances"),
        ({"instances": [ROWS[0], {"distance": 1}]}, "instances[1]"),
        ({"instances": [ROWS[0], ROWS[1] | {"other": 1}]}, "instances[1]"),
        ({"inputs": {"distance": 1}}, "inputs.distance"),
        ({"inputs": {"distance": [1], "carrier": [None], "departs": [0, 1]}}, "inputs"),
        ({"inputs": {"distance": [], "carrier": [], "departs": []}}, "inputs"),
    ],
)
def test_parse_invocation_of_a_wrong_body_names_the_part(body: dict, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_invocation(body, FEATURES, 100)
    assert (caught.value.status, caught.value.field) == (400, field)
