"""Errors of other processes come back as what they were."""

from __future__ import annotations

import traceback

import pytest

from cluster.errors import DataError, GateFailed, RayloopError
from trainers.failures import deliberate, last_line


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
