"""Errors of other processes come back as what they were."""

from __future__ import annotations

import traceback

import pytest

from cluster.errors import DataError, GateFailed, RayloopError
from trainers.worker_errors import blamed, deliberate, last_line


@pytest.mark.parametrize("error", [DataError("column 'a' is missing", "add it"), GateFailed("auc too low")])
def test_a_deliberate_error_is_found_below_others(error: RayloopError) -> None:
    try:
        try:
            raise error
        except RayloopError as inner:
            raise RuntimeError("a task failed") from inner
    except RuntimeError as outer:
        text = "\x1b[36mray::task()\x1b[39m\n" + "".join(traceback.format_exception(outer))
    found = deliberate(text)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert last_line(text) == "RuntimeError: a task failed"


@pytest.mark.parametrize("text", ["", "Traceback\nKeyError: 'cluster.errors'", "cluster.errors.py is a file"])
def test_other_text_names_no_deliberate_error(text: str) -> None:
    assert deliberate(text) is None


def test_the_line_of_the_users_own_stands_before_the_exception() -> None:
    frames = ("/job/shop.py", 7), ("/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", 134)
    text = "".join(f'  File "{path}", line {line}, in forward\n' for path, line in frames) + "RuntimeError: 2x3 and 4x5"
    assert blamed(text) == "/job/shop.py:7: RuntimeError: 2x3 and 4x5"
    assert blamed("KeyError: 3") == "KeyError: 3"
