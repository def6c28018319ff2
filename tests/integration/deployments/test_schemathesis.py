"""A served model against its own OpenAPI document: the document describes the response to every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from schemathesis import APIOperation, BaseSchema, Case, Config, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from deployments.http_messages import JSON
from deployments.protocol.binary_tensors import JSON_LENGTH_HEADER

pytestmark = pytest.mark.cluster

OPERATIONS = (
    "metadata", "ready", "infer", "infer_by_version", "invocations", "invocations_by_version", "explain",
    "explain_by_version", "feedback",
)  # fmt: skip
# A schema cannot require columns of equal length, so the server may refuse a request that the schema allows.
LOOSER = [positive_data_acceptance]
# What is forbidden must be refused with one of these: 413 for more rows than are answered at once.
REFUSALS = [400, 404, 405, 413]
EXAMPLES = 50
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def api(http: httpx.Client) -> BaseSchema:
    config = Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}})
    return schemathesis.openapi.from_url(f"{str(http.base_url).rstrip('/')}/openapi.json", config=config)


def operation(api: BaseSchema, id: str) -> APIOperation:
    operations = [result.ok() for result in api.get_all_operations()]
    [one] = [each for each in operations if each.definition.raw["operationId"] == id]
    return one


def for_each(cases: st.SearchStrategy[Case], check: Callable[[Case], None]) -> None:
    """Check generated cases; hypothesis shrinks one that fails."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow, database=None)
    @given(case=cases)
    def each(case: Case) -> None:
        check(case)

    each()


def test_served_document_is_valid_and_describes_every_path(http: httpx.Client, api: BaseSchema) -> None:
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    validate(answer.json(), cls=OpenAPIV31SpecValidator)
    # The path of the document itself is not among those that are tried.
    assert {result.ok().definition.raw["operationId"] for result in api.get_all_operations()} == set(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("id", OPERATIONS)
def test_responses_match_the_document(api: BaseSchema, id: str, mode: GenerationMode) -> None:
    """No 5xx, no status, header, type or body that the document does not know; what it forbids is refused."""
    statuses: Counter[int] = Counter()

    def check(case: Case) -> None:
        statuses[case.call_and_validate(excluded_checks=LOOSER, timeout=TIMEOUT_S).status_code] += 1

    for_each(operation(api, id).as_strategy(generation_mode=mode), check)
    assert statuses.total() > 0
    assert not any(status >= 500 for status in statuses)


@pytest.mark.parametrize("id", ["infer", "invocations", "feedback"])
def test_valid_requests_reach_the_model(api: BaseSchema, id: str) -> None:
    """As above, with bodies that also satisfy the constraints that a schema cannot express: many must get 200."""
    statuses: Counter[int] = Counter()

    def check(case: Case) -> None:
        case.body = agreeing(id, case.body)
        case.headers.pop(JSON_LENGTH_HEADER, None)
        statuses[case.call_and_validate(excluded_checks=LOOSER, timeout=TIMEOUT_S).status_code] += 1

    for_each(operation(api, id).as_strategy(generation_mode=GenerationMode.POSITIVE).filter(_is_json), check)
    assert statuses[200] >= statuses.total() / 5, statuses


def _is_json(case: Case) -> bool:
    return case.media_type == JSON


def agreeing(id: str, body: Any) -> Any:
    """One row in each column, each column once."""
    if id == "infer":
        tensors = {tensor["name"]: _one_row(tensor) for tensor in body["inputs"]}
        missing = [_one_row(tensor) for tensor in WHOLE if tensor["name"] not in tensors]
        return body | {"inputs": [*tensors.values(), *missing]}
    if isinstance(body.get("inputs"), dict):
        return body | {"inputs": {name: values[:1] for name, values in body["inputs"].items()}}
    if "dataframe_split" in body:
        row = dict(zip(NAMES, (_first(tensor["data"]) for tensor in WHOLE), strict=True))
        return body | {"dataframe_split": {"columns": NAMES, "data": [list(row.values())]}}
    return body


def _one_row(tensor: dict[str, Any]) -> dict[str, Any]:
    return tensor | {"shape": [1], "data": [_first(tensor["data"])]}


def _first(values: list[Any]) -> Any:
    """The first value of a list that may be nested, and hold nothing."""
    flat = [value for entry in values for value in (entry if isinstance(entry, list) else [entry])]
    return flat[0] if flat else None


WHOLE = [
    {"name": "distance", "datatype": "FP64", "shape": [1], "data": [0.5]},
    {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["AA"]},
    {"name": "departs", "datatype": "BYTES", "shape": [1], "data": ["2024-05-01T10:00:00Z"]},
]
NAMES = [tensor["name"] for tensor in WHOLE]
