"""Errors: messages from code and fields, in this process and in others."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError

from cluster.errors import DataError, ProjectError, RayloopError, RequestError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("data.empty_window"), "a window has no rows"),
        (
            DataError("data.table_empty", table="shop.visits"),
            "table 'shop.visits' has no rows; run the stage that writes it first, or choose another table",
        ),
        (
            DataError("data.missing_columns", table="the frame", columns=["a", "b"], present=()),
            "no column a, b in the frame; the columns are none",
        ),
        (
            ProjectError("project.unknown_entity_column", project="shop", columns=("a", "b"), choices=["c"]),
            "project 'shop' has no entity column 'a', 'b'; use one of c",
        ),
    ],
)
def test_message_is_formatted_from_the_fields(error: RayloopError, message: str) -> None:
    assert str(error) == message


def test_status_of_a_request_error_depends_on_its_code() -> None:
    assert RequestError("request.no_rows").status == 400
    assert RequestError("request.body_too_large", field="body", limit=1).status == 413


def test_pickled_error_keeps_code_fields_and_message() -> None:
    error = RequestError("request.rate_limited", field="authorization", headers={"a": "b"}, rate="1/second", wait_s=1)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is RequestError
    assert vars(copy) == vars(error)
    assert (str(copy), copy.status) == (str(error), 429)


def test_error_of_a_ray_task_keeps_code_fields_and_advice() -> None:
    error = DataError("data.table_empty", table="shop.visits")
    raised = RayTaskError("task", "Traceback", error, "", 1, "127.0.0.1").as_instanceof_cause()
    copy = pickle.loads(pickle.dumps(raised.cause))
    assert isinstance(raised, DataError)
    assert (raised.code, raised.fields, raised.what) == (error.code, error.fields, error.what)
    assert (copy.code, copy.fields, str(copy)) == (error.code, error.fields, str(error))
