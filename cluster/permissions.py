"""Local files that only their owner can open, and who that is."""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Iterable
from pathlib import Path

PRIVATE_UMASK = 0o077
"""Of every rayloop process: anyone with Ray's token can run code on the cluster, and tables may hold personal data."""


def close_to_others(paths: Iterable[Path]) -> int:
    """Take away what other users may do with files and folders; links stay as they are.

    Returns:
        How many were open to others.

    Raises:
        PermissionError: One that is open belongs to another user.
    """
    closed = 0
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            # A running cluster deletes files, and a file that is gone is closed.
            continue
        if mode & PRIVATE_UMASK and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~PRIVATE_UMASK)
            closed += 1
    return closed


def current_user() -> str:
    """Return the name of the user who runs this process; the number where no name is known, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
