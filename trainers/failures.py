"""What went wrong elsewhere, as an error of this process.

Ray passes on an exception as its traceback's text; the object, and with it its class, gets lost on several of the ways.
"""

from __future__ import annotations

import re

from cluster import errors
from cluster.errors import RayloopError

_DELIBERATE = re.compile(r"^cluster\.errors\.(\w+): (.+)$", re.MULTILINE)


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
