"""What went wrong elsewhere, as an error of this process.

Ray passes on an exception as its traceback's text; the object, and with it its class, gets lost on several of the ways.
"""

from __future__ import annotations

import re

from cluster import errors
from cluster.errors import RayloopError

_DELIBERATE = re.compile(r"^cluster\.errors\.(\w+): (.+)$", re.MULTILINE)

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def deliberate(text: str) -> RayloopError | None:
    """The last deliberate error that a traceback's text shows."""
    found = _DELIBERATE.findall(text)
    if not found:
        return None
    name, message = found[-1]
    kind = getattr(errors, name, RayloopError)
    raised: RayloopError = kind(message)
    return raised


def last_line(text: str) -> str:
    """The line of a traceback that names the exception."""
    return text.strip().splitlines()[-1].strip() if text.strip() else ""


def blamed(text: str) -> str:
    """The exception that a traceback ends with, behind the innermost line that is of no installed package."""
    own = [f"{path}:{line}: " for path, line in _FRAME.findall(text) if "/lib/python" not in path]
    return (own[-1] if own else "") + last_line(text)
