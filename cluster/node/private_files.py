"""Files of this home and of this user that other users of the machine must not open."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from cluster.errors import RayloopError
from cluster.node.token import token_file
from cluster.permissions import close_to_others
from cluster.settings import Settings


def close_files(settings: Settings) -> int:
    """Close Ray's token, and all files of this home, to other users of the machine.

    Returns:
        How many were open to them.

    Raises:
        RayloopError: One that is open belongs to another user.
    """
    # Folders before what they hold: a home that is closed protects the rest meanwhile.
    within = (Path(top, name) for top, folders, files in os.walk(settings.home) for name in (*folders, *files))
    return close_paths(chain([token_file(), settings.home], within))


def close_paths(paths: Iterable[Path]) -> int:
    """Close these paths; returns and raises as ``close_files``."""
    try:
        return close_to_others(paths)
    except PermissionError as error:
        raise RayloopError("rayloop.file_open_to_others", path=error.filename) from error
