"""The loop and its command line. A project module imports its vocabulary from here.

The vocabulary is loaded when somebody first asks for a word of it: with torch and scipy it takes seconds, which a
person who stops a rollout does not have.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayloop.vocabulary import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Python asks here for a module of this package too, before it looks for the file.
    if name.startswith("__") or find_spec(f"{__name__}.{name}"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rayloop import vocabulary

    return getattr(vocabulary, name)
