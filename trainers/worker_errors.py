"""Errors of other processes, read from tracebacks.

Ray passes an exception on as the text of its traceback; on several paths the object, and with it the class, is lost.
``attach_details`` adds class, code and fields of a RayloopError to that text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from cluster import errors
from cluster.errors import RayloopError

_DETAILS = "rayloop error: "
_RAYLOOP_ERROR = re.compile(rf"^{_DETAILS}(.+)$", re.MULTILINE)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def attach_details(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function so that a RayloopError's traceback has its class, code and fields, for ``unwrap_error``.

    Ray pickles what it runs, so this cannot be a ``contextlib`` context manager, which holds a generator.
    """

    @wraps(function)
    def attached(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except RayloopError as error:
            details = [type(error).__name__, error.code, error.fields]
            error.add_note(f"{_DETAILS}{json.dumps(details, default=_to_json)}")
            raise

    return attached


def _to_json(value: object) -> object:
    """A NumPy scalar as a number, which a message may format; anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def unwrap_error(text: str) -> RayloopError | None:
    """The last RayloopError that ``attach_details`` added to the text of a traceback; None if there is none."""
    matches = _RAYLOOP_ERROR.findall(text)
    if not matches:
        return None
    name, code, fields = json.loads(matches[-1])
    return getattr(errors, name, RayloopError)(code, **fields)


def last_line(text: str) -> str:
    """The line of a traceback that names the exception; empty for an empty text."""
    return text.strip().splitlines()[-1].strip() if text.strip() else ""


def error_origin(text: str) -> str:
    """The exception at the end of a traceback, preceded by the innermost line outside installed packages."""
    own = [f"{path}:{line}: " for path, line in _FRAME.findall(text) if "/lib/python" not in path]
    return (own[-1] if own else "") + last_line(text)
