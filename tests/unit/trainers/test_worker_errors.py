"""Errors of other processes are restored with their type, message and fields."""

from __future__ import annotations

import traceback

import pytest
from ray import cloudpickle

from cluster.errors import DataError, GateFailed, RayloopError
from trainers.worker_errors import attach_details, error_origin, last_line, unwrap_error


def _raise(error: RayloopError) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        DataError("data.missing_columns", table="the frame", columns=["a"], present=["b", "c"]),
        GateFailed("gate.failed", candidate="c", model="m", reasons="auc\nis too low", url="http://127.0.0.1"),
    ],
)
def test_unwrap_error_restores_a_chained_error(error: RayloopError) -> None:
    try:
        try:
            cloudpickle.loads(cloudpickle.dumps(attach_details(_raise)))(error)
        except RayloopError as inner:
            raise RuntimeError("a task failed") from inner
    except RuntimeError as outer:
        text = "\x1b[36mray::task()\x1b[39m\n" + "".join(traceback.format_exception(outer))
    unwrapped = unwrap_error(text)
    assert type(unwrapped) is type(error)
    assert str(unwrapped) == str(error)
    assert unwrapped is not None
    assert (unwrapped.code, unwrapped.fields) == (error.code, error.fields)
    assert last_line(text) == "RuntimeError: a task failed"


@pytest.mark.parametrize("text", ["", "Traceback\nKeyError: 'cluster.errors'", "cluster.errors.py is a file"])
def test_unwrap_error_of_other_text_is_none(text: str) -> None:
    assert unwrap_error(text) is None


def test_error_origin_is_the_innermost_line_of_user_code() -> None:
    frames = ("/job/shop.py", 7), ("/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", 134)
    text = "".join(f'  File "{path}", line {line}, in forward\n' for path, line in frames) + "RuntimeError: 2x3 and 4x5"
    assert error_origin(text) == "/job/shop.py:7: RuntimeError: 2x3 and 4x5"
    assert error_origin("KeyError: 3") == "KeyError: 3"
